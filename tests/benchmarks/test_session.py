"""The benchmarks that a run selects, and its calibrations."""

from typing import Any

import pytest

from benchmarks import memory, session
from benchmarks.session import Session
from benchmarks.shapes import Case, Shape


def test_a_cpu_is_calibrated_again_after_a_while_and_the_best_values_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = iter([3.0, 5.0, 4.0])

    def calibrate(threads: int) -> dict[str, Any]:
        return {"measured": {"multiply_add_rate": next(made)}, "errors": []}

    monkeypatch.setattr(session.cpu, "calibrate", calibrate)
    one = Session("quick", "few", "cpu", 0.01)
    seen = []
    for valid in (session.CALIBRATION_VALID, session.CALIBRATION_VALID, -1.0):
        monkeypatch.setattr(session, "CALIBRATION_VALID", valid)
        one._calibrate()
        seen.append(one.calibration["measured"]["multiply_add_rate"])
    assert seen == [3.0, 3.0, 5.0]
    assert one.record()["calibration"]["measured"]["multiply_add_rate"] == 5.0
    assert next(made, None) is None


def test_times_and_peaks_are_selected_in_the_order_of_a_record() -> None:
    one = Session("width,overview", "few", "cpu")
    seen = [(case.scope, quantity, case.step) for quantity, case in one.selected]
    assert list(dict.fromkeys(seen)) == [
        ("layer", "time", "inference"),
        ("layer", "time", "training"),
        ("layer", "memory", "inference"),
        ("layer", "memory", "training"),
        ("recurrence", "time", "inference"),
        ("recurrence", "time", "training"),
    ]
    assert one.selected == one.supported


def test_a_pattern_selects_cases_and_providers_by_name() -> None:
    one = Session("overview", "few", "cpu", pattern="time/.*/100x8x64x64/float32/training/nn.RNN")
    case = Case("overview", "layer", Shape(100, 8, 64, 64), "float32", "training")
    assert {key: [p.name for p in ps] for key, ps in one.selected.items()} == {
        ("time", case): ["nn.RNN"]
    }
    assert len(one.supported) == 4 * 8  # times and peaks, inference and training


def test_a_group_has_no_more_baselines_than_its_own_level() -> None:
    (providers,) = {
        tuple(p.name for p in ps) for ps in Session("grid", "all", "cpu").selected.values()
    }
    assert providers == ("fastrnn", "nn.RNN")


def test_the_reason_why_peaks_are_not_measured_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "unavailable_reason", lambda device: "no compiler")
    one = Session("overview", "few", "cpu")
    assert {quantity for quantity, _ in one.selected} == {"time"}
    assert one.unavailable["peak memory"] == "no compiler"
