"""Time layers on busy CPUs: `python -m benchmarks.contention`.

Each layer is compared with torch's in interleaved turns, under several conditions:

- alone: torch's default number of threads, on all CPUs that the process may use;
- oversubscribed: four times as many threads as CPUs;
- neighbours: other processes keep all CPUs busy except one;
- one CPU: the default number of threads, on a single CPU.

A ratio is the median over the turns of torch's time over ours, in float32: above 1 we are faster.
Training is forward and backward. Each condition has a process of its own, because OpenMP reads the
number of CPUs when it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

import fastrnn

from .process import run
from .report.markdown import aligned
from .short_calls import ratio

#: A layer, and (T, B, I, H): by a team of threads, by tiles of the batch, and by one thread.
SHAPES: tuple[tuple[str, tuple[int, int, int, int]], ...] = (
    ("RNN", (100, 1, 256, 256)),
    ("RNN", (100, 32, 128, 128)),
    ("RNN", (64, 64, 512, 512)),
    ("RNN", (8, 1, 16, 16)),
    ("LSTM", (100, 32, 128, 128)),
    ("GRU", (100, 32, 128, 128)),
)

CONDITIONS = ("alone", "oversubscribed", "neighbours", "one CPU")

#: The threads of each CPU when they are oversubscribed.
THREADS_PER_CPU = 4

#: The most seconds of a condition, for each second of the budget of a time.
LIMIT = 20

HEADER = ("layer", "(T, B, I, H)", "mode")


def ratios(budget: float, shapes: Any = SHAPES) -> list[list[float]]:
    """Return torch's time over ours for each shape, in inference and in training."""
    found = []
    for kind, (steps, batch, inputs, hidden) in shapes:
        ours = getattr(fastrnn, f"Fused{kind}")(inputs, hidden)
        theirs = getattr(nn, kind)(inputs, hidden)
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(steps, batch, inputs)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: ours(x)[0],  # noqa: B023
            lambda: theirs(x)[0],  # noqa: B023
        )
        found.append([ratio(*calls, train, budget) for train in (False, True)])
    return found


def usable_cpus() -> set[int]:
    return os.sched_getaffinity(0)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many CPUs busy."""
    command = [sys.executable, "-c", "while True: pass"]
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        yield


@contextmanager
def affinity(cpus: set[int]) -> Iterator[None]:
    """Let the processes that are started use only some CPUs."""
    before = usable_cpus()
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def under(condition: str, budget: float, shapes: Any = SHAPES) -> list[list[float]]:
    """Return the `ratios` that a process measures under a condition.

    Raises:
        RuntimeError: the process failed, or took too long.
    """
    cpus, threads = usable_cpus(), torch.get_num_threads()
    with ExitStack() as stack:
        if condition == "oversubscribed":
            threads = THREADS_PER_CPU * len(cpus)
        elif condition == "neighbours":
            stack.enter_context(busy(max(1, len(cpus) - 1)))
        elif condition == "one CPU":
            stack.enter_context(affinity({min(cpus)}))
        given = json.dumps([threads, budget, shapes])
        command = [sys.executable, "-m", "benchmarks.contention", "--measure", given]
        seconds = 120 + LIMIT * budget * len(shapes)
        status, output = run(command, seconds)
    if status != 0:
        raise RuntimeError(f"{condition}: {output[-500:] or 'took too long'}")
    measured: list[list[float]] = json.loads(output.splitlines()[-1])
    return measured


def table(budget: float, shapes: Any = SHAPES, conditions: Sequence[str] = CONDITIONS) -> list[str]:
    """Return the lines of the table, two for each shape."""
    columns = [under(condition, budget, shapes) for condition in conditions]
    rows: list[tuple[str, ...]] = [(*HEADER, *conditions)]
    for i, (kind, sizes) in enumerate(shapes):
        for j, mode in enumerate(("inference", "training")):
            rows.append((kind, str(sizes), mode, *(f"{column[i][j]:.2f}" for column in columns)))
    return aligned(rows, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each time")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is None:
        print("\n".join(table(arguments.budget)))
        return
    threads, budget, shapes = json.loads(arguments.measure)
    torch.set_num_threads(threads)
    print(json.dumps(ratios(budget, shapes)))


if __name__ == "__main__":
    main()
