"""Measure one case: verify the result of every provider, then time them in interleaved turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from . import baselines, verify
from .baselines import Provider
from .memory import peak_mib
from .precision import precision
from .roofline.model import flops
from .shapes import Case
from .timing import Run, Times, time_interleaved
from .workload import Call, Workload

#: A call that takes longer is not repeated.
MAX_CALL_SECONDS = 10.0

#: On a CPU the time of a case with more FLOPs is estimated first. Smaller cases never take longer
#: than MAX_CALL_SECONDS.
MAX_FLOPS_WITHOUT_ESTIMATE = 1e9


class DeviceLost(RuntimeError):
    """The CUDA context of this process is broken."""


def raise_if_lost(error: Exception, what: str) -> None:
    """Raise `DeviceLost` if an error has broken the CUDA context of this process."""
    if "CUDA error" in str(error) or "illegal memory access" in str(error):
        raise DeviceLost(f"{what}: {error}") from error


@dataclass
class CaseResult:
    """The results of a case, by provider name."""

    case: Case
    times: dict[str, Times] = field(default_factory=dict)
    mib: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)  #: why a result was not measured
    too_long: dict[str, float] = field(default_factory=dict)  #: seconds of a call


def measure_times(
    case: Case, providers: Sequence[Provider], device: str, budget: float
) -> CaseResult:
    """Measure the times of a case.

    Args:
        budget: seconds for each provider, verification excluded.

    Raises:
        DeviceLost: a CUDA kernel broke the context of the device.
    """
    result = CaseResult(case)
    with precision(case.mode):
        runs = {}
        workload = Workload(case, device)
        for provider in providers:
            verified = _prepare_verified(provider, workload, result)
            if verified is not None:
                call, own = verified
                inputs = own.cycle_inputs()
                runs[provider.name] = Run(
                    lambda call=call, inputs=inputs: call(next(inputs)), provider.context
                )
        if runs:
            series = time_interleaved(list(runs.values()), device, budget)
            result.times = dict(zip(runs, series, strict=True))
    return result


def measure_memory(
    case: Case, names: Sequence[str], device: str, steps: int | None = None
) -> CaseResult:
    """Measure the peak memory of a case. On a CPU, call it in a `memory.Process`.

    Args:
        names: the names of the providers.
        steps: replaces the number of steps of the case, to try the code.
    """
    result = CaseResult(case)
    with precision(case.mode):
        workload = Workload(case, device, steps)
        for provider in baselines.by_name(names):
            verified = _prepare_verified(provider, workload, result)
            if verified is not None:
                call, own = verified
                with provider.context():
                    peak = peak_mib(lambda: call(own.inputs[0]), device)  # noqa: B023
                result.mib[provider.name] = peak
    return result


def verify_results(case: Case, names: Sequence[str], device: str, steps: int) -> CaseResult:
    """Verify the results of a case over a few steps, without timing it.

    Args:
        names: the names of the providers.
        steps: replaces the number of steps of the case.
    """
    result = CaseResult(case)
    with precision(case.mode):
        workload = Workload(case, device, steps)
        for provider in baselines.by_name(names):
            _prepare_verified(provider, workload, result)
    return result


@contextmanager
def verified_call(provider: Provider, workload: Workload) -> Iterator[Callable[[], Any]]:
    """Yield a call of a provider, in its precision and context, after verifying its result.

    The call cycles through the inputs. On a GPU it synchronises.

    Raises:
        AssertionError: the result is wrong.
    """
    with precision(workload.case.mode), provider.context():
        own = provider.adapt(workload)
        call = provider.prepare(own)
        verify.check(provider.tensors(call(own.inputs[0]), own), own)
        inputs = own.cycle_inputs()

        def synchronised_call() -> Any:
            results = call(next(inputs))
            if own.device.type == "cuda":
                torch.cuda.synchronize()
            return results

        yield synchronised_call


def _prepare_verified(
    provider: Provider, workload: Workload, result: CaseResult
) -> tuple[Call, Workload] | None:
    """Return the provider's call and its workload, or None if it is wrong or takes too long.

    The reason for None is stored in the result.
    """
    try:
        seconds = _estimate(provider, workload)
        if seconds <= MAX_CALL_SECONDS:
            own = provider.adapt(workload)
            call = provider.prepare(own)
            with provider.context():
                # The first call may compile and initialise: its time does not count.
                verify.check(provider.tensors(call(own.inputs[0]), own), own)
                seconds = _seconds(call, own)
    except AssertionError as error:
        result.wrong[provider.name] = str(error)[:500]
        return None
    except Exception as error:
        raise_if_lost(error, f"{provider}, {result.case}")
        result.wrong[provider.name] = f"{type(error).__name__}: {error}"[:500]
        return None
    if seconds > MAX_CALL_SECONDS:
        result.too_long[provider.name] = seconds
        return None
    return call, own


def _estimate(provider: Provider, workload: Workload) -> float:
    """Estimate the seconds of a call of a large case from a tenth of its steps, else return 0."""
    is_small = workload.steps < 10 or flops(workload.case) < MAX_FLOPS_WITHOUT_ESTIMATE
    if is_small or provider.compiles or workload.device.type != "cpu":
        return 0.0
    part = provider.adapt(Workload(workload.case, workload.device, workload.steps // 10))
    call = provider.prepare(part)
    with provider.context():
        return _seconds(call, part) * workload.steps / part.steps


def _seconds(call: Call, workload: Workload) -> float:
    """Time one call."""
    start = time.perf_counter()
    call(workload.inputs[0])
    if workload.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
