"""Options, parameters and fixtures of the suite that `pytest benchmarks` runs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from . import baselines, environment
from .baselines import Provider
from .groups import GROUPS, SELECTIONS, select
from .precision import MODES
from .shapes import Case
from .workload import Workload


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    names = ", ".join((*SELECTIONS, *GROUPS))
    group.addoption("--shapes", default="quick", help=f"comma-separated names out of: {names}")
    group.addoption(
        "--baselines",
        choices=baselines.LEVELS,
        default="most",
        help='how many baselines to compare with; "all" compiles for minutes (default: most)',
    )
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    group.addoption("--threads", type=int, help="for torch.set_num_threads")


def pytest_configure(config: pytest.Config) -> None:
    if threads := config.getoption("threads"):
        torch.set_num_threads(threads)
    try:
        cases = _cases(config)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if not cases:
        raise pytest.UsageError(f"these shapes are not measured on {_device(config)}")


def pytest_report_header(config: pytest.Config) -> str:
    return (
        f"benchmarks: {config.getoption('shapes')} shapes, on {_device(config)}, "
        f"{torch.get_num_threads()} threads"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `test_STEP` over the cases of the step, and the providers of each."""
    level, device = metafunc.config.getoption("baselines"), _device(metafunc.config)
    metafunc.parametrize(
        ("case", "provider"),
        [
            pytest.param(
                case,
                provider,
                id=f"{case.group}-{case.shape.id}-{case.mode}-{provider}",
                # One table for each case, which compares its providers.
                marks=pytest.mark.benchmark(group=f"{case.scope} {case}"),
            )
            for case in _cases(metafunc.config)
            if case.step == metafunc.function.__name__.removeprefix("test_")
            for provider in baselines.select_for(case, level, device)[0]
        ],
    )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Add what the times depend on: --benchmark-compare warns if it differs."""
    machine_info["fastrnn"] = _machine(_device(config))


@pytest.fixture
def workload(case: Case, request: pytest.FixtureRequest) -> Workload:
    """The inputs of a case, with the expected results once they were computed."""
    return _workload(case, _device(request.config))


@pytest.fixture(autouse=True)
def _extra_info(
    benchmark: BenchmarkFixture, case: Case, provider: Provider, request: pytest.FixtureRequest
) -> None:
    """Store what a saved time belongs to."""
    benchmark.extra_info |= {
        **_machine(_device(request.config)),
        "provider": provider.name,
        "shape": case.shape.to_json(),
        "step": case.step,
        "mode": case.mode,
        "dtype": str(MODES[case.mode].dtype).removeprefix("torch."),
    }


def _device(config: pytest.Config) -> str:
    return config.getoption("device") or ("cuda" if torch.cuda.is_available() else "cpu")


def _cases(config: pytest.Config) -> list[Case]:
    return select(config.getoption("shapes"), _device(config))


@functools.lru_cache(maxsize=1)  # the providers of a case follow one another
def _workload(case: Case, device: str) -> Workload:
    return Workload(case, device)


@functools.cache
def _machine(device: str) -> dict[str, Any]:
    description = environment.describe(device)
    kept = {key: description[key] for key in ("threads", "torch")}
    return {"machine": environment.name(description), "device": device, **kept}
