"""The benchmarks as pytest sees them: options, parameters, and the record at the end.

All providers of a case are measured in turns when the first of its tests asks; each test then hands
its provider's times to pytest-benchmark. With --benchmark-disable nothing is measured: every
benchmark is run once, over a few steps, and its result checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from . import measure, peers, records, tables
from .providers import Provider
from .session import SESSION, Session
from .shapes import GROUPS, SELECTIONS, Case

#: Steps of a case where only its code is to be tried: more than are done without a kernel.
TRIAL = 4


class Replay:
    """A timer for pytest-benchmark that tells times already taken."""

    def __init__(self) -> None:
        self._ticks: Iterator[float] = repeat(0.0)

    def load(self, seconds: Sequence[float]) -> None:
        # It is asked before and after every round.
        self._ticks = chain.from_iterable((0.0, one) for one in seconds)

    def __call__(self) -> float:
        return next(self._ticks)


REPLAY = Replay()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    names = ", ".join((*SELECTIONS, *GROUPS))
    group.addoption("--shapes", default="quick", help=f"which, separated by commas: {names}")
    group.addoption("--peers", choices=peers.LEVELS, default="all", help="no more than these")
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    group.addoption("--budget", type=float, default=0.4, help="seconds for each time measured")
    group.addoption("--threads", type=int, help="torch's threads (default: as torch chose)")
    group.addoption("--results", type=Path, default=records.RESULTS, help="where the record goes")


def pytest_configure(config: pytest.Config) -> None:
    options = (
        config.getoption(name) for name in ("shapes", "peers", "device", "budget", "threads")
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
    """A module says of its tests what they measure, WHAT, and of what, SCOPE; a name the step."""
    session, module = metafunc.config.stash[SESSION], metafunc.module
    step = metafunc.function.__name__.removeprefix("test_")
    metafunc.parametrize(
        ("case", "provider"),
        [
            pytest.param(case, provider, id=f"{case.group}-{case.work.id}-{case.mode}-{provider}")
            for case in session.cases
            if (case.scope, case.step) == (module.SCOPE, step)
            if GROUPS[case.group].memory or module.WHAT == "time"
            for provider in session.providers(module.WHAT, case)
        ],
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests that no case is for."""
    items[:] = [item for item in items if isinstance(item.callspec.params["case"], Case)]
    for item in items:
        case = item.callspec.params["case"]
        item.add_marker(pytest.mark.benchmark(group=f"{case.scope} {case}", timer=REPLAY))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Who takes turns: all whose tests are left after -k and the like."""
    wanted = session.config.stash[SESSION].wanted
    for item in session.items:
        case, provider = (item.callspec.params[name] for name in ("case", "provider"))
        wanted.setdefault((item.module.WHAT, case), []).append(provider)


@pytest.fixture
def timed(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Measure one provider of a case: `timed(case, provider)`."""
    session = request.config.stash[SESSION]

    def time(case: Case, provider: Provider) -> None:
        if benchmark.disabled:
            benchmark(measure.once, case, provider, session.device, min(case.work.T, TRIAL))
            return
        found = _measured(session, "time", case)
        _give_up_if_without(found.times, found, provider)
        ms = found.times[provider.name].ms
        REPLAY.load([1e-3 * one for one in ms])
        benchmark.pedantic(lambda: None, rounds=len(ms))

    return time


@pytest.fixture
def weighed(request: pytest.FixtureRequest) -> Callable[..., None]:
    """The peak memory of one provider of a case: `weighed(case, provider)`."""
    session = request.config.stash[SESSION]

    def weigh(case: Case, provider: Provider) -> None:
        if request.config.getoption("benchmark_disable"):
            steps = min(case.work.T, TRIAL)
            found = session.weighed(case, [provider.name], steps)
        else:
            found = _measured(session, "memory", case)
        _give_up_if_without(found.mib, found, provider)

    return weigh


def _measured(session: Session, what: str, case: Case) -> measure.Found:
    try:
        return session.measured(what, case)
    except measure.DeviceLost as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.INTERRUPTED)


def _give_up_if_without(
    values: dict[str, object], found: measure.Found, provider: Provider
) -> None:
    name = provider.name
    if name in found.too_long:
        pytest.skip(f"a call takes {found.too_long[name]:.0f} s: not repeated")
    if name not in values:
        pytest.fail(found.wrong[name], pytrace=False)


def pytest_unconfigure(config: pytest.Config) -> None:
    if SESSION in config.stash:
        config.stash[SESSION].close()


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's tables
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    session = config.stash[SESSION]
    if not session.found:
        return
    record = records.write(session.record(), config.getoption("results"))
    write = terminalreporter.write_line
    for name, reason in session.absent.items():
        write(f"absent: {name} ({reason})")
    for error in session.calibration.get("errors", ()):
        write(f"no calibration: {error}")
    for line in tables.summary(session.rows()):
        write(line)
    write(f"\nrecord: {record}")
