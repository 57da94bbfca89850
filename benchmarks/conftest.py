"""The benchmarks as pytest sees them: options, parameters, and the record at the end.

All providers of a case are measured in turns when the first test of the case runs. Each test then
passes its provider's times to pytest-benchmark. With --benchmark-disable nothing is measured: every
benchmark runs once, over a few steps, and its result is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from . import baselines, runner
from .baselines import Provider
from .report import records, tables
from .session import SESSION, Session
from .shapes import GROUPS, SELECTIONS, Case

#: Steps of a case in a trial of the code: more than a call without a kernel handles at once.
TRIAL_STEPS = 4


class Replay:
    """A timer for pytest-benchmark that replays times already measured."""

    def __init__(self) -> None:
        self._ticks: Iterator[float] = repeat(0.0)

    def load(self, seconds: Sequence[float]) -> None:
        # pytest-benchmark reads the timer before and after every round.
        self._ticks = chain.from_iterable((0.0, one) for one in seconds)

    def __call__(self) -> float:
        return next(self._ticks)


REPLAY = Replay()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    names = ", ".join((*SELECTIONS, *GROUPS))
    group.addoption("--shapes", default="quick", help=f"which, separated by commas: {names}")
    group.addoption(
        "--baselines", choices=baselines.LEVELS, default="all", help="compare to no more than these"
    )
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    group.addoption("--budget", type=float, default=0.4, help="seconds for each time measured")
    group.addoption("--threads", type=int, help="torch's threads (default: as torch chose)")
    group.addoption("--results", type=Path, default=records.RESULTS, help="where the record goes")


def pytest_configure(config: pytest.Config) -> None:
    options = (
        config.getoption(name) for name in ("shapes", "baselines", "device", "budget", "threads")
    )
    try:
        config.stash[SESSION] = Session(*options)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.getoption("numprocesses", None) and not config.getoption("benchmark_disable"):
        raise pytest.UsageError("processes side by side cannot be timed: -n 0, or timing off")


def pytest_report_header(config: pytest.Config) -> str:
    session = config.stash[SESSION]
    threads = torch.get_num_threads()
    return f"benchmarks: {session.shapes} shapes, on {session.device}, {threads} threads"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module's QUANTITY is what its tests measure, SCOPE of what; a test's name is the step."""
    session, module = metafunc.config.stash[SESSION], metafunc.module
    step = metafunc.function.__name__.removeprefix("test_")
    metafunc.parametrize(
        ("case", "provider"),
        [
            pytest.param(case, provider, id=f"{case.group}-{case.shape.id}-{case.mode}-{provider}")
            for case in session.cases
            if (case.scope, case.step) == (module.SCOPE, step)
            if GROUPS[case.group].memory or module.QUANTITY == "time"
            for provider in session.providers(module.QUANTITY, case)
        ],
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop the tests without a case."""
    items[:] = [item for item in items if isinstance(item.callspec.params["case"], Case)]
    for item in items:
        case = item.callspec.params["case"]
        item.add_marker(pytest.mark.benchmark(group=f"{case.scope} {case}", timer=REPLAY))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Only the providers whose tests were selected, by -k and the like, take turns."""
    selected = session.config.stash[SESSION].selected
    for item in session.items:
        case, provider = (item.callspec.params[name] for name in ("case", "provider"))
        selected.setdefault((item.module.QUANTITY, case), []).append(provider)


@pytest.fixture
def measure_time(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> Callable[[Case, Provider], None]:
    """Measure one provider of a case."""
    session = request.config.stash[SESSION]

    def measure(case: Case, provider: Provider) -> None:
        if benchmark.disabled:
            steps = min(case.shape.T, TRIAL_STEPS)
            benchmark(runner.run_once, case, provider, session.device, steps)
            return
        result = _measure(session, "time", case)
        _fail_without_value(result.times, result, provider)
        ms = result.times[provider.name].ms
        REPLAY.load([1e-3 * one for one in ms])
        benchmark.pedantic(lambda: None, rounds=len(ms))

    return measure


@pytest.fixture
def measure_memory(request: pytest.FixtureRequest) -> Callable[[Case, Provider], None]:
    """Measure the peak memory of one provider of a case."""
    session = request.config.stash[SESSION]

    def measure(case: Case, provider: Provider) -> None:
        if request.config.getoption("benchmark_disable"):
            steps = min(case.shape.T, TRIAL_STEPS)
            result = session.measure_memory(case, [provider.name], steps)
        else:
            result = _measure(session, "memory", case)
        _fail_without_value(result.mib, result, provider)

    return measure


def _measure(session: Session, quantity: str, case: Case) -> runner.CaseResult:
    try:
        return session.measure(quantity, case)
    except runner.DeviceLost as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.INTERRUPTED)


def _fail_without_value(
    values: dict[str, object], result: runner.CaseResult, provider: Provider
) -> None:
    name = provider.name
    if name in result.too_long:
        pytest.skip(f"a call takes {result.too_long[name]:.0f} s: not repeated")
    if name not in values:
        pytest.fail(result.wrong[name], pytrace=False)


def pytest_unconfigure(config: pytest.Config) -> None:
    if SESSION in config.stash:
        config.stash[SESSION].close()


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's tables
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    session = config.stash[SESSION]
    if not session.results:
        return
    record = records.write(session.record(), config.getoption("results"))
    write = terminalreporter.write_line
    for name, reason in session.unavailable.items():
        write(f"absent: {name} ({reason})")
    for error in session.calibration.get("errors", ()):
        write(f"no calibration: {error}")
    for line in tables.summary(session.rows()):
        write(line)
    write(f"\nrecord: {record}")
