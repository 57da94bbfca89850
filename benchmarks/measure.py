"""One case measured: every provider past the gate, then all in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from . import gate, peers
from .clock import Run, Times, in_turns
from .memory import peak_mib
from .modes import precision
from .providers import Provider
from .roofline.model import flops
from .shapes import Case
from .task import Call, Task

#: Seconds beyond which a call is not repeated. The time of a case of more FLOPs than MANY_FLOPS is
#: estimated first on a CPU; smaller cases never take that long.
PATIENCE, MANY_FLOPS = 10.0, 1e9


class DeviceLost(RuntimeError):
    """A CUDA device that will serve this process no more."""


def raise_if_lost(error: Exception, what: str) -> None:
    """Raise `DeviceLost` if the device will serve this process no more after such an error."""
    if "CUDA error" in str(error) or "illegal memory access" in str(error):
        raise DeviceLost(f"{what}: {error}") from error


@dataclass
class Found:
    """What came of a case, by the provider's name."""

    case: Case
    times: dict[str, Times] = field(default_factory=dict)
    mib: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)  #: why it has no time
    too_long: dict[str, float] = field(default_factory=dict)  #: seconds that a call takes


def times(case: Case, providers: Sequence[Provider], device: str, budget: float) -> Found:
    """The times of a case.

    Args:
        budget: seconds for each provider, the gate not counted.

    Raises:
        DeviceLost: a CUDA kernel broke the device's context.
    """
    found = Found(case)
    with precision(case.mode):
        runs = {}
        task = Task(case, device)
        for provider in providers:
            passed = _pass(provider, task, found)
            if passed is not None:
                call, own = passed
                turns = own.turns()
                runs[provider.name] = Run(
                    lambda call=call, turns=turns: call(next(turns)), provider.using
                )
        if runs:
            series = in_turns(list(runs.values()), device, budget)
            found.times = dict(zip(runs, series, strict=True))
    return found


def memory(case: Case, names: Sequence[str], device: str, steps: int | None = None) -> Found:
    """The peak memory of a case; of a CPU to be called in a `memory.Process`.

    Args:
        names: of the providers.
        steps: fewer, where only the code is to be tried.
    """
    found = Found(case)
    with precision(case.mode):
        task = Task(case, device, steps)
        for provider in peers.named(names):
            passed = _pass(provider, task, found)
            if passed is not None:
                call, own = passed
                with provider.using():
                    peak = peak_mib(lambda: call(own.inputs[0]), device)  # noqa: B023
                found.mib[provider.name] = peak
    return found


def once(case: Case, provider: Provider, device: str, steps: int | None = None) -> None:
    """The gate alone, with fewer steps where only the code is to be tried.

    Raises:
        AssertionError: the result is wrong.
    """
    with precision(case.mode):
        own = provider.task(Task(case, device, steps))
        call = provider.prepare(own)
        with provider.using():
            gate.check(call(own.inputs[0]), own)


def _pass(provider: Provider, task: Task, found: Found) -> tuple[Call, Task] | None:
    """The call of a provider and what it is of, if its result is right and it takes its turn."""
    try:
        seconds = _foreseen(provider, task)
        if seconds <= PATIENCE:
            own = provider.task(task)
            call = provider.prepare(own)
            with provider.using():
                # The first compiles, and what else is done once.
                gate.check(call(own.inputs[0]), own)
                seconds = _timed(call, own)
    except AssertionError as error:
        found.wrong[provider.name] = str(error)[:500]
        return None
    except Exception as error:
        raise_if_lost(error, f"{provider}, {found.case}")
        found.wrong[provider.name] = f"{type(error).__name__}: {error}"[:500]
        return None
    if seconds > PATIENCE:
        found.too_long[provider.name] = seconds
        return None
    return call, own


def _foreseen(provider: Provider, task: Task) -> float:
    """Seconds that a call will take, judged by a tenth of its steps where it is a large one."""
    small = task.steps < 10 or flops(task.case) < MANY_FLOPS
    if small or provider.compiles or task.device.type != "cpu":
        return 0.0
    part = provider.task(Task(task.case, task.device, task.steps // 10))
    call = provider.prepare(part)
    with provider.using():
        return _timed(call, part) * task.steps / part.steps


def _timed(call: Call, task: Task) -> float:
    """The seconds of a call."""
    start = time.perf_counter()
    call(task.inputs[0])
    if task.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
