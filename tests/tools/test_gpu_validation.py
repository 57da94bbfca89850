"""The GPU validation, tested without a GPU, from results that are made up."""

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from benchmarks import environment
from benchmarks.report import records
from benchmarks.roofline import gpu_calibration
from benchmarks.shapes import STEPS
from fastrnn.ops.backends import cpu
from tests.utils.marks import requires_extension
from tools.gpu_validation import kernels, results, small_calls, tables, validate

ROOT = Path(__file__).parents[2]

TESTS = {
    "tests/gpu/test_kernels.py::a": {"kernel": "triton.rows", "mode": "float32"},
    "tests/gpu/test_kernels.py::b": {"kernel": "triton.rows", "mode": "float16"},
    "tests/gpu/test_kernels.py::c": {"kernel": "cuda.grid"},
    "tests/gpu/test_layer.py::d": {},
}
SHAPE = {"group": "cudnn", "work": {"T": 1000, "B": 16, "I": 64, "H": 64}, "mode": "float32"}
NAME = "(1000, 16, 64, 64) float32"


def kernel_row(step: str = "forward", **us: float) -> dict[str, Any]:
    """Kernels of one direction, with "_" for "." in their names, and their µs per step."""
    times = {
        name.replace("_", ".", 1): {"ms": [one, one, one, one], "turns": 9, "over": {}}
        for name, one in us.items()
    }
    choices = {name: {"chosen": True, "model_cycles_a_step": 500.0} for name in times}
    bounds = {"arithmetic": 0.1, "bytes": 0.05, "steps": 0.125}
    return {
        **SHAPE,
        "scope": "kernel",
        "step": step,
        "times": times,
        "choices": choices,
        "floor": bounds,
    }


def layer_row(step: str = "training", **ours: float) -> dict[str, Any]:
    """nn.RNN, which takes 1 ms, and fastrnn by each backend, in ms."""
    over = {f"fastrnn.{backend}": 1 / ms for backend, ms in ours.items()}
    times = {"nn.RNN": {"ms": [1.0] * 4, "turns": 9, "over": over}}
    times |= {
        f"fastrnn.{name}": {"ms": [ms] * 4, "turns": 9, "over": {}} for name, ms in ours.items()
    }
    return {**SHAPE, "scope": "layer", "step": step, "times": times}


def timing(*rows: dict[str, Any]) -> dict[str, Any]:
    return results.timing([{"event": "row", "row": row} for row in rows], [])


ROWS = (kernel_row(triton_rows=0.25), layer_row(cuda=2.0))
WRONG_LAYER = {**layer_row(), "wrong": {"fastrnn.cuda": "far off"}}


def journal(**outcomes: str) -> list[dict[str, Any]]:
    """The journal of the plugin; a test without an outcome was not reached."""
    entries: list[dict[str, Any]] = [{"event": "collected", "tests": TESTS}]
    for test in TESTS:
        outcome = outcomes.get(test[-1])
        if outcome is None:
            continue
        entries.append({"event": "started", "test": test})
        if outcome == "died":
            entries.append({"event": "died", "status": 1, "said": "Timeout"})
        else:
            reason = "" if outcome == "passed" else "why"
            entries.append({"event": "ended", "test": test, "outcome": outcome, "reason": reason})
    return [*entries, {"event": "finished", "status": 0}]


def correctness(**outcomes: str) -> dict[str, Any]:
    return results.correctness([journal(**outcomes)])


ALL = dict.fromkeys("abcd", "passed")
BUILT = {"outcome": "built"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tools.gpu_validation"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == results.NO_GPU
    assert result.stderr.strip() == "gpu-check needs a CUDA GPU: torch finds none"
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_counts_by_kernel_and_mode() -> None:
    found = correctness(a="passed", b="failed", d="skipped")
    one = dict.fromkeys(results.OUTCOMES, 0)
    assert found["kernels"] == {
        "triton.rows": {
            "all": {**one, "passed": 1, "failed": 1},
            "float32": {**one, "passed": 1},
            "float16": {**one, "failed": 1},
        },
        "cuda.grid": {"all": {**one, "not reached": 1}},
        "layer": {"all": {**one, "skipped": 1}},
    }
    assert found["failed"] == [{"test": "tests/gpu/test_kernels.py::b", "reason": "why"}]
    assert found["not reached"] == ["tests/gpu/test_kernels.py::c"]
    assert "FAILED tests/gpu/test_kernels.py::b" in tables.correctness_table(found)


def test_a_test_that_ends_its_process_counts_as_failed() -> None:
    found = correctness(**{**ALL, "c": "died"})
    assert found["kernels"]["cuda.grid"]["all"]["failed"] == 1
    assert "Timeout" in found["failed"][0]["reason"]


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ({"correctness": correctness(**ALL)}, results.OK),
        ({"correctness": correctness(**{**ALL, "d": "skipped"})}, results.OK),
        ({"correctness": correctness(**{**ALL, "b": "failed"})}, results.WRONG),
        ({"correctness": correctness(**{**ALL, "b": "died"})}, results.WRONG),
        ({"correctness": correctness(a="passed")}, results.WRONG),  # the rest was not reached
        ({"correctness": correctness(**dict.fromkeys("abcd", "skipped"))}, results.WRONG),
        ({"correctness": results.correctness([[]])}, results.WRONG),
        ({"correctness": {"error": "..."}}, results.WRONG),
        ({}, results.WRONG),
        (
            {"correctness": correctness(**ALL), "sanitizer": {"racecheck": {"outcome": "found"}}},
            results.WRONG,
        ),
        (
            {"correctness": correctness(**ALL), "timing": timing(WRONG_LAYER)},
            results.WRONG,
        ),
        # Without the CUDA kernels nothing failed, but the validation is not complete.
        (
            {"correctness": correctness(**ALL), "build": {"outcome": "not finished"}},
            results.WRONG,
        ),
    ],
)
def test_exit_status(record: dict[str, Any], status: int) -> None:
    assert results.status({"build": BUILT, **record}) == status


def test_a_failure_of_pytest_is_an_error() -> None:
    found = results.correctness([[*journal(**ALL)[:-1], {"event": "finished", "status": 4}]])
    assert found["errors"] == ["pytest ended with status 4"]
    assert results.status({"build": BUILT, "correctness": found}) == results.WRONG


@pytest.mark.parametrize(
    ("record", "verified"),
    [
        ({"correctness": correctness(**ALL)}, ["triton.rows", "cuda.grid"]),
        ({"correctness": correctness(**{**ALL, "c": "failed"})}, ["triton.rows"]),
        ({"correctness": correctness(**{**ALL, "c": "skipped"})}, ["triton.rows"]),
        ({"correctness": correctness(a="passed", c="passed")}, ["cuda.grid"]),
        (
            {
                "correctness": correctness(**ALL),
                "sanitizer": {"memcheck cuda": {"outcome": "found"}},
            },
            ["triton.rows"],
        ),
        (
            {"correctness": correctness(**ALL), "timing": timing(WRONG_LAYER)},
            ["triton.rows"],
        ),
        ({}, []),
    ],
)
def test_verified_kernels(record: dict[str, Any], verified: list[str]) -> None:
    assert results.verified_kernels(record) == verified


def test_timing_that_was_interrupted() -> None:
    row = {**kernel_row(triton_rows=0.25), "wrong": {"cuda.grid": "far off"}}
    entries = [{"event": "started", "name": "first"}]
    entries += [{"event": "row", "row": row}, {"event": "row", "row": layer_row(cuda=2.0)}]
    entries += [{"event": "ended", "name": "first"}, {"event": "started", "name": "second"}]
    entries += [{"event": "died", "status": 1, "said": "Timeout"}]
    found = results.timing(entries, ["first", "second", "third"])
    assert len(found["rows"]) == 2
    assert found["not reached"] == ["third"]
    assert found["errors"][0]["name"] == "second"
    table = tables.timing_table(found)
    for words in ("0.25*/-", "WRONG/-", "0.50!", "far off", "not reached: third"):
        assert words in table
    assert "cuda: slower than nn.RNN in 1 of 1 cases" in table
    assert f"{NAME} training: 0.50x (1.000 ms, ours 2.000)" in table


def test_each_backend_has_a_line() -> None:
    rows = [layer_row(step, triton=1 / 1.5, cuda=1 / 2.5) for step in STEPS]
    table = tables.timing_table(timing(kernel_row(triton_rows=0.25), *rows))
    header, first, second, *_ = table.splitlines()
    assert first.split()[-4:] == ["triton", "1.50", "1.50", "1.50"]
    assert second.split() == ["cuda", "2.50", "2.50", "2.50"]
    # The last column marks slower cases.
    assert len(header) - 1 == len(first) == len(second)


def test_a_layer_with_a_wrong_result_has_no_time() -> None:
    table = tables.timing_table(timing(WRONG_LAYER))
    assert table.splitlines()[1].split()[-4:] == ["cuda", "-", "-", "WRONG"]


def test_table_of_the_fastest_kernels() -> None:
    forward = kernel_row(triton_rows=0.25, cuda_cluster=0.4, cuda_grid=0.2)
    forward["choices"]["cuda.grid"]["chosen"] = False
    backward = kernel_row("backward", cuda_cluster=0.3, cuda_step=4.0)
    backward["choices"]["cuda.step"]["chosen"] = False
    table = tables.fastest_table(timing(forward, backward, layer_row(cuda=2.0)), 1.755e9)
    _, first, second, last = table.splitlines()
    assert "cuda.grid 0.20" in first
    assert first.endswith("1.6  cuda.cluster 0.40, 1.4 x model, 2.00 x cuda.grid 0.20")
    assert second.endswith("cuda.cluster 0.30, 1.1 x model")
    assert last == "the plan did not choose the fastest in 1 of 2 cases"


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace all parts by constant results; the calibration raises an error."""
    described = {
        "device": "cuda",
        "gpu": "NVIDIA H200",
        "capability": [9, 0],
        "date": "2030-01-02T03:04+00:00",
        "commit": "abc1234",
    }
    monkeypatch.setattr(validate, "no_gpu", lambda: None)
    monkeypatch.setattr(environment, "describe", lambda device: described)
    monkeypatch.setattr(validate, "build", lambda arch, _: {"archs": arch, **BUILT})
    monkeypatch.setattr(gpu_calibration, "calibrate", lambda *_: 1 / 0)
    monkeypatch.setattr(validate, "correctness", lambda deadline: correctness(**ALL))
    monkeypatch.setattr(validate, "sanitize", lambda *_: {"outcome": "could not run"})
    monkeypatch.setattr(validate, "timing", lambda deadline: timing(*copy.deepcopy(ROWS)))


@pytest.mark.parametrize("failing", [False, True])
def test_record_of_all_parts(
    failing: bool, faked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    if failing:
        found = correctness(**{**ALL, "a": "failed"})
        monkeypatch.setattr(validate, "correctness", lambda deadline: found)
    assert validate.main([]) == (results.WRONG if failing else results.OK)
    folder = tmp_path / "nvidia-h200"
    record = json.loads((folder / "2030-01-02t03-04-abc1234-check.json").read_text())
    times = records.read(folder / "2030-01-02t03-04-abc1234-gpu.json")
    assert len(list(folder.iterdir())) == 2
    parts = ("environment", "build", "calibration", "correctness", "sanitizer", "timing")
    assert set(record) == {"format", "status", *parts}
    assert record["build"]["archs"] == "9.0a"
    assert "ZeroDivisionError" in record["calibration"]["error"]
    assert {"memcheck triton", "racecheck cuda", "synccheck cuda"} < set(record["sanitizer"])
    assert all("seconds" in found for found in record["sanitizer"].values())
    assert "rows" not in record["timing"]
    assert [row["scope"] for row in times["rows"]] == ["kernel", "layer"]
    assert all(row["floor"]["steps"] > 0 for row in times["rows"])
    said = capsys.readouterr().out
    assert ("NOT all passed" in said) == failing
    verified = "cuda.grid" if failing else "triton.rows, cuda.grid"
    assert f"kernels without a finding: {verified}\n" in said


@pytest.mark.parametrize("seconds", [None, 60])
def test_parts_end_within_the_time_limit(
    seconds: int | None, faked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []

    def ending(found: dict[str, Any]) -> Any:
        def part(*arguments: Any) -> dict[str, Any]:
            ends.append(arguments[-1] - time.time())
            return copy.deepcopy(found)

        return part

    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(validate, "build", ending(BUILT))
    monkeypatch.setattr(
        gpu_calibration, "calibrate", ending({"measured": {}, "assumed": {}, "errors": []})
    )
    monkeypatch.setattr(validate, "correctness", ending(correctness(**ALL)))
    monkeypatch.setattr(validate, "sanitize", ending({"outcome": "clean"}))
    monkeypatch.setattr(validate, "timing", ending(timing(*ROWS)))
    validate.main([] if seconds is None else ["--seconds", str(seconds)])
    most = seconds or validate.TOTAL
    assert len(ends) == 4 + len(validate.TOOLS)
    assert max(ends) <= most
    assert ends[-1] > most - 5


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "long"])
def test_invalid_seconds_are_rejected(
    seconds: str, faked: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        validate.main(["--seconds", seconds])
    assert "--seconds" in capsys.readouterr().err


def test_the_timing_has_at_least_two_minutes() -> None:
    """Even if all parts before it use their whole limits."""
    parts = (validate.BUILD, validate.CALIBRATION, validate.CORRECTNESS, validate.SANITIZER)
    assert validate.TOTAL <= 525
    assert validate.TOTAL - sum(parts) >= 120
    assert validate.BACKENDS == kernels.BACKENDS


@pytest.mark.parametrize("outcome", ["built", "failed", "not finished"])
def test_outcomes_of_the_build(
    outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], seconds: float, environment: dict[str, str]) -> tuple[Any, str]:
        assert environment["FASTRNN_BUILD"] == "cuda"
        assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0a"
        if outcome == "failed":
            (tmp_path / "fastrnn" / "_cuda_build_error.txt").write_text("no nvcc\n\nall of it\n")
        return {"built": 0, "failed": 1, "not finished": None}[outcome], "what it said"

    (tmp_path / "fastrnn").mkdir()
    monkeypatch.setattr(validate, "ROOT", tmp_path)
    monkeypatch.setattr(validate, "run", run)
    found = validate.build("9.0a", time.time() + 1000)
    assert found["outcome"] == outcome
    assert found["archs"] == "9.0a"
    assert found.get("reason") == {"failed": "no nvcc", "built": None}.get(
        outcome, f"it took more than {validate.BUILD} s"
    )


def test_digest_includes_the_cuda_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    before = environment.source()
    (tmp_path / "csrc" / "cuda" / "grid.h").write_text("// another\n")
    after = environment.source()
    assert before["cuda_kernels_sha256"] != after["cuda_kernels_sha256"]
    assert before["kernels_sha256"] == after["kernels_sha256"]


class OnCpu(kernels.Kernel):
    """A GPU kernel, with the CPU kernels in its place."""

    implementation = cpu.BACKEND
    options: ClassVar[dict[str, str]] = {}

    def unsupported_reason(self, *_: Any) -> None:
        return None


@requires_extension
@pytest.mark.parametrize("kernel", kernels.TRITON_CELLS[:1] + kernels.CUDA_CELLS[::3], ids=str)
def test_small_calls_of_cells(
    kernel: kernels.Kernel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_calls.small_cell(OnCpu(*kernel), "cpu")
    said = capsys.readouterr().out
    assert said == f"small: {kernel} forward\nsmall: {kernel} backward\n"
    right = cpu.BACKEND.recurrence

    def wrong(*given: Any) -> Any:
        results = right(*given)
        return results._replace(out=results.out + 1)

    monkeypatch.setattr(cpu.BACKEND, "recurrence", wrong)
    with pytest.raises(AssertionError, match="not close"):
        small_calls.small_cell(OnCpu(*kernel), "cpu")
