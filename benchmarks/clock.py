"""Time: of providers in turns, as whoever waits for them sees it; and of a GPU, launches hidden.

Turns are what makes a ratio worth something on a machine with moods: a busy moment falls on all.
A turn is several calls in a row, each with other inputs, long beside the clock's grain and short
beside the moods. One provider's time is a series of turns, of which the best tells what its code
can do, the median what a user sees, and the quantiles how the machine was.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

#: Milliseconds that a turn is to last, by the device's type, and how many turns there are at least:
#: in all, or where one of all providers takes longer than the budget.
TURN_MS = {"cpu": 20.0, "cuda": 4.0}
LEAST_TURNS, LEAST_TURNS_OF_LONG = 5, 3

#: Bytes that are written before a kernel is timed, so that L2 holds nothing of its operands: more
#: than the L2 of any GPU there is.
FLUSH_BYTES = 256 << 20


@dataclass
class Run:
    """What is timed: one call, and the context its calls are made in."""

    call: Callable[[], object]
    using: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)

    def ms(self, calls: int, device: str) -> float:
        """Milliseconds a call takes, over so many in a row."""
        with self.using():
            if device == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(calls):
                    self.call()
                end.record()
                end.synchronize()
                return start.elapsed_time(end) / calls
            begin = time.perf_counter()
            for _ in range(calls):
                self.call()
            return 1e3 * (time.perf_counter() - begin) / calls


@dataclass(frozen=True)
class Times:
    """Milliseconds a call, turn after turn."""

    ms: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.ms)

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def quantile(self, part: float) -> float:
        """Linearly between the turns, as numpy's."""
        place = part * (len(self.ms) - 1)
        below = sorted(self.ms)[int(place) :][:2]
        return below[0] + (place % 1) * (below[-1] - below[0])

    def summary(self) -> list[float]:
        """Best, p20, median, p80."""
        return [self.best, self.quantile(0.2), self.median, self.quantile(0.8)]

    def over(self, other: Times) -> float:
        """The median over the turns of this time over the other's."""
        return statistics.median(a / b for a, b in zip(self.ms, other.ms, strict=True))


def in_turns(runs: Sequence[Run], device: str, budget: float) -> list[Times]:
    """The times of several runs, which have all been called before.

    Args:
        budget: seconds for each run.
    """
    with _no_garbage_collected():
        once = [run.ms(1, device) for run in runs]  # and all are warm
        calls = [max(1, int(TURN_MS[device] / ms)) for ms in once]
        end = time.perf_counter() + budget * len(runs)
        turns: list[list[float]] = []
        while not _enough(len(turns), time.perf_counter() - end, budget * len(runs)):
            turns.append([run.ms(n, device) for run, n in zip(runs, calls, strict=True)])
    return [Times(ms) for ms in zip(*turns, strict=True)]


def _enough(turns: int, late: float, budget: float) -> bool:
    if turns < LEAST_TURNS_OF_LONG:
        return False
    return late > 0 and (turns >= LEAST_TURNS or late > budget)


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def device_times(call: Callable[[], object], budget: float = 0.12) -> Times:
    """Of a CUDA device alone, call by call, with L2 flushed before each.

    Args:
        budget: seconds for all.
    """
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    call()
    once = _event_ms(call, 1, flush)[0]
    return Times(tuple(_event_ms(call, max(7, min(50, int(1e3 * budget / once))), flush)))


def _event_ms(call: Callable[[], object], repeats: int, flush: torch.Tensor) -> list[float]:
    pairs = []
    for _ in range(repeats):
        # While the device sleeps and writes, the launches that follow are queued.
        torch.cuda._sleep(400_000)
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]
