"""Time calls of a few steps, dominated by overhead: `python -m benchmarks.short_calls`.

The cell, `step` and forward are compared with those of torch's layers, in interleaved turns on one
thread, in float32. A ratio is the median over the turns of torch's time over ours: above 1 we are
faster. `step` is compared with torch's layer on inputs and outputs of the same shapes. The ratio of
two of torch's layers shows the noise of the machine. --cell chooses nn.RNN (the default), nn.LSTM
or nn.GRU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn

from .report.markdown import aligned
from .timing import Run, time_interleaved

#: (B, H); the input has H features too.
SIZES = ((1, 16), (1, 64), (1, 128), (4, 64), (16, 128), (64, 64), (64, 256))
#: The numbers of steps of forward.
STEPS = (1, 2, 3, 4, 5, 6, 8)

HEADER = ("call", "(B, H)", "inference", "training")


def calls(
    batch: int, hidden: int, kind: str = "RNN"
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return our call and torch's call by name; each returns a tensor."""
    ours, torchs = getattr(fastrnn, f"Fused{kind}"), getattr(nn, kind)
    rnn, theirs, other = (cls(hidden, hidden) for cls in (ours, torchs, torchs))
    classes = getattr(fastrnn, f"Fused{kind}Cell"), getattr(nn, f"{kind}Cell")
    cell, their_cell = (cls(hidden, hidden) for cls in classes)
    x, h = torch.randn(max(STEPS), batch, hidden), torch.randn(1, batch, hidden)
    hx: Any = (h, h) if kind == "LSTM" else h
    h_of_cell: Any = (h[0], h[0]) if kind == "LSTM" else h[0]

    def of_cell(cell: nn.Module) -> Tensor:
        result = cell(x[0], h_of_cell)
        return result[0] if kind == "LSTM" else result

    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        f"two nn.{kind}s, T = 1": (lambda: other(x[:1], hx)[0], lambda: theirs(x[:1], hx)[0]),
        "cell": (lambda: of_cell(cell), lambda: of_cell(their_cell)),
        "step": (
            lambda: rnn.step(x[0], hx)[0],
            lambda: theirs(x[0].unsqueeze(0), hx)[0].squeeze(0),
        ),
    }
    for steps in STEPS:
        part = x[:steps]
        found[f"forward, T = {steps}"] = (
            lambda part=part: rnn(part, hx)[0],  # type: ignore[misc]
            lambda part=part: theirs(part, hx)[0],  # type: ignore[misc]
        )
    return found


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], train: bool, budget: float) -> float:
    """Return torch's time over ours."""

    def run(call: Callable[[], Any]) -> Run:
        if train:
            return Run(lambda: call().sum().backward())
        return Run(call, torch.no_grad)

    mine, other = time_interleaved([run(ours), run(theirs)], "cpu", budget)
    return other.over(mine)


def table(budget: float, sizes: Sequence[tuple[int, int]] = SIZES, kind: str = "RNN") -> list[str]:
    """Return the lines of the table, one for each call and size."""
    rows: list[tuple[str, ...]] = [HEADER]
    for batch, hidden in sizes:
        for name, (ours, theirs) in calls(batch, hidden, kind).items():
            ratios = [f"{ratio(ours, theirs, train, budget):.2f}" for train in (False, True)]
            rows.append((name, f"({batch}, {hidden})", *ratios))
    return aligned(rows, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=0.4, help="seconds for each time")
    parser.add_argument("--cell", choices=("rnn", "lstm", "gru"), default="rnn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(table(arguments.budget, kind=arguments.cell.upper())))


if __name__ == "__main__":
    main()
