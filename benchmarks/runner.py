"""The measurement of one case: verify the results of every provider, then time all in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import baselines, verify
from .baselines import Provider
from .memory import peak_mib
from .precision import precision
from .roofline.model import flops
from .shapes import Case
from .timing import Run, Times, time_interleaved
from .workload import Call, Workload

#: Seconds beyond which a call is not repeated. The time of a case of more FLOPs than MANY_FLOPS is
#: estimated first on a CPU; smaller cases never take that long.
PATIENCE, MANY_FLOPS = 10.0, 1e9


class DeviceLost(RuntimeError):
    """The CUDA context of this process is broken."""


def raise_if_lost(error: Exception, what: str) -> None:
    """Raise `DeviceLost` if an error has broken the CUDA context of this process."""
    if "CUDA error" in str(error) or "illegal memory access" in str(error):
        raise DeviceLost(f"{what}: {error}") from error


@dataclass
class CaseResult:
    """The results of a case, by the name of the provider."""

    case: Case
    times: dict[str, Times] = field(default_factory=dict)
    mib: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)  #: why there is no time
    too_long: dict[str, float] = field(default_factory=dict)  #: seconds of a call


def measure_times(
    case: Case, providers: Sequence[Provider], device: str, budget: float
) -> CaseResult:
    """The times of a case.

    Args:
        budget: seconds for each provider, without the verification.

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
    """The peak memory of a case; for a CPU, to be called in a `memory.Process`.

    Args:
        names: of the providers.
        steps: replaces the number of steps of the case, for a trial of the code.
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
        names: those of the providers.
        steps: replaces the number of steps of the case.
    """
    result = CaseResult(case)
    with precision(case.mode):
        workload = Workload(case, device, steps)
        for provider in baselines.by_name(names):
            _prepare_verified(provider, workload, result)
    return result


@contextmanager
def verified_call(provider: Provider, workload: Workload) -> Iterator[Callable[[], list[Tensor]]]:
    """Enter the precision and the context of a provider, and return its call.

    The result of the call was verified. On a GPU the call includes a synchronisation.

    Raises:
        AssertionError: the result is wrong.
    """
    with precision(workload.case.mode), provider.context():
        own = provider.adapt(workload)
        call = provider.prepare(own)
        verify.check(call(own.inputs[0]), own)
        inputs = own.cycle_inputs()

        def synchronised_call() -> list[Tensor]:
            results = call(next(inputs))
            if own.device.type == "cuda":
                torch.cuda.synchronize()
            return results

        yield synchronised_call


def _prepare_verified(
    provider: Provider, workload: Workload, result: CaseResult
) -> tuple[Call, Workload] | None:
    """The provider's call and its workload, if its result is right and does not take too long."""
    try:
        seconds = _estimate(provider, workload)
        if seconds <= PATIENCE:
            own = provider.adapt(workload)
            call = provider.prepare(own)
            with provider.context():
                # The first call compiles, and does whatever else is done once.
                verify.check(call(own.inputs[0]), own)
                seconds = _seconds(call, own)
    except AssertionError as error:
        result.wrong[provider.name] = str(error)[:500]
        return None
    except Exception as error:
        raise_if_lost(error, f"{provider}, {result.case}")
        result.wrong[provider.name] = f"{type(error).__name__}: {error}"[:500]
        return None
    if seconds > PATIENCE:
        result.too_long[provider.name] = seconds
        return None
    return call, own


def _estimate(provider: Provider, workload: Workload) -> float:
    """Seconds that a call will take: of a large case ten times those of a tenth of its steps."""
    is_small = workload.steps < 10 or flops(workload.case) < MANY_FLOPS
    if is_small or provider.compiles or workload.device.type != "cpu":
        return 0.0
    part = provider.adapt(Workload(workload.case, workload.device, workload.steps // 10))
    call = provider.prepare(part)
    with provider.context():
        return _seconds(call, part) * workload.steps / part.steps


def _seconds(call: Call, workload: Workload) -> float:
    """The seconds of a call."""
    start = time.perf_counter()
    call(workload.inputs[0])
    if workload.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
