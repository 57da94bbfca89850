"""Times of several providers in interleaved turns, and device times of a GPU.

Turns make a ratio meaningful on a busy machine: machine noise affects all providers equally. A turn
is several calls in a row, each with other inputs; it is long compared with the clock's resolution
and short compared with the noise. The best turn shows what the code can do, the median what a user
sees, and the quantiles how noisy the machine was.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

#: Milliseconds of a turn, by the type of the device.
TURN_MS = {"cpu": 20.0, "cuda": 4.0}

#: The fewest turns, and the fewest if they take more than twice the budget.
MIN_TURNS, MIN_TURNS_OVER_BUDGET = 5, 3

#: Bytes written before a kernel is timed, to flush its operands from L2. No GPU has more L2.
FLUSH_BYTES = 256 << 20


@dataclass
class Run:
    """A call to be timed, and the context that is active during it."""

    call: Callable[[], object]
    context: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)

    def ms(self, calls: int, device: str) -> float:
        """Return the mean milliseconds of several calls in a row."""
        with self.context():
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
    """Milliseconds per call, for every turn."""

    ms: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.ms)

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def summary(self) -> list[float]:
        """Return the minimum, 20th percentile, median and 80th percentile."""
        quantiles = torch.tensor([0.2, 0.8], dtype=torch.float64)
        p20, p80 = torch.tensor(self.ms, dtype=torch.float64).quantile(quantiles).tolist()
        return [self.best, p20, self.median, p80]

    def over(self, other: Times) -> float:
        """Return the median over the turns of the ratio of this time to the other."""
        return statistics.median(a / b for a, b in zip(self.ms, other.ms, strict=True))


def time_interleaved(runs: Sequence[Run], device: str, budget: float) -> list[Times]:
    """Time several runs in interleaved turns. Each call must have been made before.

    Args:
        budget: seconds for each run.
    """
    with _garbage_collection_disabled():
        once = [run.ms(1, device) for run in runs]  # warms up too
        calls = [max(1, int(TURN_MS[device] / ms)) for ms in once]
        end = time.perf_counter() + budget * len(runs)
        turns: list[list[float]] = []
        while not _are_enough(len(turns), time.perf_counter() - end, budget * len(runs)):
            turns.append([run.ms(n, device) for run, n in zip(runs, calls, strict=True)])
    return [Times(ms) for ms in zip(*turns, strict=True)]


def _are_enough(turns: int, late: float, budget: float) -> bool:
    if turns < MIN_TURNS_OVER_BUDGET:
        return False
    return late > 0 and (turns >= MIN_TURNS or late > budget)


@contextmanager
def _garbage_collection_disabled() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def device_times(call: Callable[[], object], budget: float = 0.12) -> Times:
    """Time each call on a CUDA device, with L2 flushed before it.

    triton.testing.do_bench does the same, but does not hide the launches: if a call has many short
    kernels, it measures the host.

    Args:
        budget: seconds for all calls.
    """
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    call()
    once = _event_ms(call, 1, flush)[0]
    return Times(tuple(_event_ms(call, max(7, min(50, int(1e3 * budget / once))), flush)))


def _event_ms(call: Callable[[], object], repeats: int, flush: torch.Tensor) -> list[float]:
    pairs = []
    for _ in range(repeats):
        # While the device sleeps and flushes L2, the host queues the launches.
        torch.cuda._sleep(400_000)
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]
