"""Compare FusedRNN as installed with nn.RNN: `python -m benchmarks.as_installed`.

Without a compiled extension, or on a GPU without a verified kernel, `auto` runs nn.RNN's own
implementation. FusedRNN is then slower by its own overhead only. A ratio is the median over the
interleaved turns of nn.RNN's time over ours, in float32 on one thread of the CPU. Training is
forward and backward.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

import fastrnn

from .report.markdown import aligned
from .short_calls import ratio

#: (T, B, I, H), and the options of a layer.
SHAPES: tuple[tuple[tuple[int, int, int, int], dict[str, Any]], ...] = (
    ((100, 1, 64, 64), {}),
    ((100, 32, 128, 128), {}),
    ((100, 1, 64, 64), {"num_layers": 2, "bidirectional": True}),
    ((100, 32, 128, 128), {"num_layers": 2, "bidirectional": True}),
    ((1, 1, 64, 64), {}),
    ((1, 32, 128, 128), {}),
    ((4, 1, 64, 64), {}),
)

HEADER = ("(T, B, I, H)", "layers", "backend", "inference", "training")


def table(budget: float, shapes: Any = SHAPES) -> list[str]:
    """Return the lines of the table, one for each shape."""
    rows: list[tuple[str, ...]] = [HEADER]
    for (steps, batch, inputs, hidden), options in shapes:
        ours = fastrnn.FusedRNN(inputs, hidden, **options)
        theirs = nn.RNN(inputs, hidden, **options)
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(steps, batch, inputs)
        groups = 2 if ours.bidirectional else 1
        names = dict.fromkeys(
            fastrnn.explain(
                steps, batch, hidden, groups=groups, device="cpu", training=training
            ).backend
            for training in (False, True)
        )
        ratios = [
            f"{ratio(lambda: ours(x)[0], lambda: theirs(x)[0], train, budget):.2f}"  # noqa: B023
            for train in (False, True)
        ]
        layers = f"{ours.num_layers}{', bidirectional' if ours.bidirectional else ''}"
        shape = f"({steps}, {batch}, {inputs}, {hidden})"
        rows.append((shape, layers, ", ".join(names), *ratios))
    return aligned(rows, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"cpu: {fastrnn.backends()['cpu'].reason or 'available'}")
    print("\n".join(table(arguments.budget)))


if __name__ == "__main__":
    main()
