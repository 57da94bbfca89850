"""The timing of the GPU kernels, tested without a GPU: its plan, and rows measured on the CPU."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.groups import GROUPS, select
from benchmarks.jsonl import read
from benchmarks.report import records
from benchmarks.shapes import Shape
from benchmarks.timing import Times
from fastrnn.ops.backends.reference import BACKEND as reference
from tools.gpu_validation import timing
from tools.gpu_validation.timing import DIRECTIONS, Unit, kernel_row

WORK = Shape(6, 3, 5, 5)


class Fake:
    """A kernel that runs on the CPU: the reference, with an error on request."""

    backend, name, options = "triton", "rows", {}

    def __init__(self, offset: float = 0.0, error: str | None = None) -> None:
        self.offset, self.error = offset, error

    def __str__(self) -> str:
        return "triton.rows"

    @property
    def implementation(self) -> Any:
        def through(function: Any) -> Any:
            def run(*arguments: Any) -> Any:
                if self.error:
                    raise RuntimeError(self.error)
                first, second = function(*arguments)
                return first + self.offset, second

            return run

        return SimpleNamespace(
            forward=through(reference.forward), backward=through(reference.backward)
        )


@pytest.fixture(autouse=True)
def choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "chosen", lambda *_: "another")


def row(kernel: Fake, direction: str, mode: str = "float32", shape: Shape = WORK) -> records.Row:
    unit = Unit("cudnn", shape, mode)
    clock = lambda call: (call(), Times((1.0, 2.0, 3.0)))[1]  # noqa: E731
    return kernel_row(unit, direction, [kernel], "cpu", clock)  # type: ignore[list-item]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("mode", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [WORK, Shape(6, 3, 5, 5, groups=2, activation="relu")], ids=str)
def test_a_correct_kernel_has_a_time(shape: Shape, mode: str, direction: str) -> None:
    found = row(Fake(), direction, mode, shape)
    assert found["scope"] == "kernel"
    assert found["times"]["triton.rows"]["ms"][2] == 2
    assert found["choices"] == {"triton.rows": {"chosen": False}}
    assert "wrong" not in found
    assert records.case(json.loads(json.dumps(found))).step == direction


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_wrong_kernel_has_no_time(direction: str) -> None:
    found = row(Fake(offset=0.01), direction)
    assert "times" not in found
    assert "is wrong: relative error" in found["wrong"]["triton.rows"]
    assert row(Fake(error="no room"), direction)["wrong"] == {
        "triton.rows": "RuntimeError: no room"
    }


def test_a_lost_device_raises() -> None:
    with pytest.raises(timing.DeviceLost):
        row(Fake(error="CUDA error: unspecified launch failure"), "forward")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("mode", "precision"), [("float32", "ieee"), ("tf32", "tf32")])
def test_kernels_are_selected_in_the_precision_of_the_mode(
    mode: str, precision: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NeedsPrecision(Fake):
        def unsupported_reason(self, *_: Any) -> str | None:
            return None if torch.backends.cudnn.rnn.fp32_precision == precision else "another"

    kernel = NeedsPrecision()
    monkeypatch.setattr(timing, "KERNELS", (kernel,))
    # opcheck in the same process leaves the flags as torch.testing sets them.
    flags = torch.backends.flags_frozen.__globals__
    monkeypatch.setitem(flags, "__allow_nonbracketed_mutation_flag", not frozen)
    assert timing.kernels(WORK, mode, 6, "forward", "cpu") == [kernel]


def test_plan_is_a_part_of_the_full_table() -> None:
    plan = timing.plan()
    cases = {(case.group, case.shape, case.mode) for case in select("full", "cuda")}
    assert {tuple(unit) for unit in plan.values()} <= cases
    assert len(plan) > 80
    groups = list(dict.fromkeys(unit.group for unit in plan.values()))
    assert groups[:4] == ["neuro", "stacks", "gated-cudnn", "cudnn"]
    shapes = {unit.shape for unit in plan.values() if unit.group == "cudnn"}
    assert shapes == set(GROUPS["cudnn"].shapes)


def test_the_plan_resumes_its_journal_and_survives_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = {name: Unit("cudnn", WORK, "float32") for name in ("first", "second", "third")}
    made: list[str] = []

    def rows(unit: Unit) -> Any:
        made.append("row")
        yield {"scope": "kernel"}
        if len(made) == 1:
            raise ValueError("no such thing")

    monkeypatch.setattr(timing, "plan", lambda: units)
    monkeypatch.setattr(timing, "rows", rows)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    path = tmp_path / "journal"
    timing.append(path, event="started", name="second")  # an earlier process died here
    timing.measure_plan(path, float("inf"))
    entries = read(path)
    assert [entry["name"] for entry in entries if entry["event"] == "started"] == [
        "second",
        "first",
        "third",
    ]
    (error,) = (entry for entry in entries if entry["event"] == "error")
    assert (error["name"], error["reason"]) == ("first", "ValueError: no such thing")
    assert [entry["event"] for entry in entries].count("row") == 2
    assert entries[-1]["event"] == "finished"
    timing.measure_plan(tmp_path / "late", 0.0)
    assert [entry["event"] for entry in read(tmp_path / "late")] == ["finished"]
