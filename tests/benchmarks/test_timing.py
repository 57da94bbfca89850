"""Interleaved turns and their statistics."""

import gc
import itertools
import time

import pytest

from benchmarks import timing
from benchmarks.timing import Run, Times, time_interleaved


def test_summary_has_the_minimum_and_the_quantiles() -> None:
    times = Times((4.0, 1.0, 2.0, 3.0, 5.0))
    assert times.best == 1
    assert times.median == 3
    assert times.summary() == pytest.approx([1, 1.8, 3, 4.2])
    assert Times((7.0,)).summary() == [7] * 4


def test_a_ratio_is_the_median_over_the_turns() -> None:
    """The machine was slow in the second turn, for both."""
    ours, theirs = Times((1.0, 10.0, 1.0)), Times((2.0, 20.0, 2.2))
    assert theirs.over(ours) == 2
    assert theirs.median / ours.median == 2.2


def test_the_turns_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timing.TURN_MS, "cpu", 3.0)
    called: list[str] = []

    def run(name: str, ms: float) -> Run:
        return Run(lambda: (called.append(name), time.sleep(1e-3 * ms)))

    found = time_interleaved([run("a", 1), run("b", 4)], "cpu", 0.02)
    turns = [(name, len(list(calls))) for name, calls in itertools.groupby(called)]
    assert turns[:2] == [("a", 1), ("b", 1)]  # the first call of each calibrates
    names = [name for name, _ in turns]
    assert names == ["a", "b"] * (len(names) // 2)
    # Short calls are repeated to fill a turn; both have the same number of turns.
    assert {count for name, count in turns[2:] if name == "b"} == {1}
    assert all(count in (1, 2) for name, count in turns[2:] if name == "a")
    assert [len(times.ms) for times in found] == [len(names) // 2 - 1] * 2
    assert found[0].best >= 1
    assert found[1].best >= 4


def test_there_is_a_minimum_of_turns() -> None:
    (found,) = time_interleaved([Run(lambda: None)], "cpu", 1e-9)
    assert len(found.ms) == timing.MIN_TURNS_OVER_BUDGET
    (found,) = time_interleaved([Run(lambda: None)], "cpu", 0.05)
    assert len(found.ms) >= timing.MIN_TURNS - 2


def test_garbage_collection_is_disabled_within_a_turn() -> None:
    seen: list[bool] = []
    time_interleaved([Run(lambda: seen.append(gc.isenabled()))], "cpu", 1e-9)
    assert not any(seen)
    assert gc.isenabled()


def test_a_context_is_entered_once_a_turn() -> None:
    entered: list[str] = []

    class Using:
        def __enter__(self) -> None:
            entered.append("in")

        def __exit__(self, *_: object) -> None:
            entered.append("out")

    assert Run(lambda: entered.append("call"), Using).ms(2, "cpu") > 0
    assert entered == ["in", "call", "call", "out"]
