"""Time on a GPU: of the device, and of whoever waits for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

import fastrnn


class Run(NamedTuple):
    """What is timed, with one of our backends chosen; which nn.RNN does not mind."""

    backend: str
    call: Callable[[], object]


def device_ms(run: Callable[[], object], budget: float = 0.12) -> list[float]:
    """Milliseconds of device time, call by call."""
    run()
    once = _event_ms(run, 1)[0]
    return _event_ms(run, max(7, min(50, int(1e3 * budget / once))))


def _event_ms(run: Callable[[], object], repeats: int) -> list[float]:
    pairs = []
    for _ in range(repeats):
        # While the device sleeps, the launches that follow are queued.
        torch.cuda._sleep(400_000)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def in_turns(runs: list[Run], budget: float = 0.3) -> list[tuple[float, ...]]:
    """Milliseconds a call of each, turn after turn."""
    for run in runs:
        _call_ms(run, 3)
    calls = [max(1, int(4 / _call_ms(run, 1))) for run in runs]
    end = time.perf_counter() + budget
    turns: list[tuple[float, ...]] = []
    while len(turns) < 5 or time.perf_counter() < end:
        turns.append(tuple(_call_ms(run, n) for run, n in zip(runs, calls, strict=True)))
    return turns


def _call_ms(run: Run, calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with fastrnn.backend(run.backend):
        start.record()
        for _ in range(calls):
            run.call()
        end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / calls


def p20_p80(values: list[float]) -> list[float]:
    quantiles = statistics.quantiles(values, n=5)
    return [quantiles[0], quantiles[3]]
