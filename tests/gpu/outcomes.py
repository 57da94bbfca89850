"""A pytest plugin that records the tests it runs: ``-p tests.gpu.outcomes --journal FILE``.

A kernel that hangs or faults ends its process. Every test is therefore recorded when it starts and
when it ends, and a run with the same journal resumes after the last recorded test. ``--shard 1/4``
selects the second of four shards, so that several processes share the work.
"""

from pathlib import Path

import pytest

from benchmarks.jsonl import append, read


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("outcomes")
    group.addoption("--journal", type=Path, help="file to record outcomes in and to resume from")
    group.addoption("--shard", default="0/1", help="i/n: every n-th test, from the i-th on")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("journal")
    if path is not None:
        index, count = config.getoption("shard").split("/")
        config.pluginmanager.register(_Journal(path, int(index), int(count)))


class _Journal:
    def __init__(self, path: Path, index: int, count: int) -> None:
        self.path, self.index, self.count = path, index, count

    @pytest.hookimpl(trylast=True)  # after -m and -k
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        before = read(self.path)
        mine = items[self.index :: self.count]
        if not any(entry["event"] == "collected" for entry in before):
            tests = {item.nodeid: dict(item.user_properties) for item in mine}
            append(self.path, event="collected", tests=tests)
        started = {entry["test"] for entry in before if entry["event"] == "started"}
        left = [item for item in mine if item.nodeid not in started]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        append(self.path, event="started", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            append(
                self.path,
                event="ended",
                test=report.nodeid,
                outcome=report.outcome,
                reason=_reason(report),
                seconds=round(report.duration, 3),
            )

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        append(self.path, event="finished", status=int(exitstatus))


def _reason(report: pytest.TestReport) -> str:
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):  # for a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext[-1500:]
