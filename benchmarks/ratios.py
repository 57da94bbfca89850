"""FusedRNN against nn.RNN on the CPU: `python -m benchmarks.ratios` prints the table.

Both run in one process with the same weights and threads, in turns, so that a busy moment of the
machine falls on both. The table gives each one's best time of many (what the code can do), and
the median over the turns of their ratio (what a user sees).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from fastrnn import FusedRNN
from fastrnn.ops import cpp

from .cases import CPU_SHAPES, STEPS, Shape

GRID_B = (1, 2, 4, 8, 16, 32, 64, 128)
GRID_H = (8, 16, 32, 64, 100, 128, 200, 256, 384, 512, 768, 1024)


def seconds(run: Callable[[], object], calls: int) -> float:
    """Seconds a call takes, over `calls` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def in_turns(runs: tuple[Callable[[], object], ...], budget: float) -> list[tuple[float, ...]]:
    """Each run's seconds a call, turn after turn, until `budget` seconds are spent."""
    for run in runs:
        run()
    # A turn of 20 ms is long beside the clock's grain and short beside the machine's moods.
    calls = [max(1, int(0.02 / seconds(run, 1))) for run in runs]
    end = time.perf_counter() + budget
    turns: list[tuple[float, ...]] = []
    while len(turns) < 5 or time.perf_counter() < end:
        turns.append(tuple(seconds(run, n) for run, n in zip(runs, calls, strict=True)))
    return turns


def compare(shape: Shape, step: str, budget: float) -> tuple[float, float, float]:
    """Best milliseconds of nn.RNN and of FusedRNN, and the median ratio of the two."""
    peer = nn.RNN(shape.I, shape.H)
    ours = FusedRNN(shape.I, shape.H)
    ours.load_state_dict(peer.state_dict())
    runs = tuple(STEPS[step](layer, shape) for layer in (peer, ours))
    # The times are worth nothing if the results differ.
    x = torch.randn(shape.T, shape.B, shape.I)
    torch.testing.assert_close(ours(x), peer(x), rtol=1e-4, atol=1e-4)
    turns = in_turns(runs, budget)
    best = [min(times) * 1e3 for times in zip(*turns, strict=True)]
    return best[0], best[1], statistics.median(theirs / mine for theirs, mine in turns)


def table(budget: float) -> None:
    """The CPU shapes, a line each."""
    print(f"{'(T, B, I, H)':24}{'step':12}{'nn.RNN':>10}{'FusedRNN':>10}{'ratio':>8}")
    for shape in CPU_SHAPES:
        for step in STEPS:
            peer, ours, ratio = compare(shape, step, budget)
            print(f"{shape!s:24}{step:12}{peer:10.3f}{ours:10.3f}{ratio:7.2f}x", flush=True)


def grid(steps: int, budget: float) -> None:
    """The ratios over batch and hidden size, where the losing shapes show."""
    for step in STEPS:
        print(f"\nratio, {step}, T = {steps}, I = H\n  B\\H" + "".join(f"{H:7}" for H in GRID_H))
        for B in GRID_B:
            print(f"{B:5}", end="")
            for H in GRID_H:
                ratio = compare(Shape(steps, B, H, H), step, budget)[2]
                print(f"{ratio:7.2f}", end="", flush=True)
            print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, help="seconds for each measurement")
    parser.add_argument("--threads", type=int, help="torch's threads (default: as torch chose)")
    parser.add_argument("--grid", type=int, metavar="T", help="ratios over B and H at T steps")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, float32, {torch.get_num_threads()} threads, "
        f"{cpp.detail()}; milliseconds, best of many; ratio: median over turns\n"
    )
    if arguments.grid:
        grid(arguments.grid, arguments.budget or 0.3)
    else:
        table(arguments.budget or 2.0)


if __name__ == "__main__":
    main()
