"""The suites as pytest runs them, over a few of their cases."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import conftest, session
from benchmarks.report import records

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *words]
    # These tests may be a worker's, which the benchmarks are not.
    alone = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)


@pytest.mark.slow
def test_a_run_measures_shows_and_records(tmp_path: Path) -> None:
    saved = tmp_path / "times.json"
    times = "4x32x128x64 and float32 and not forward"
    memory = "test_memory and 512x8"
    result = bench(
        *("--shapes", "fusion,length", "--budget", "0.02", "--threads", "1"),
        *("-k", f"({times} or {memory}) and not torch.compile"),
        *("--results", str(tmp_path), f"--benchmark-json={saved}"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "benchmarks: fusion,length shapes, on cpu, 1 threads" in result.stdout
    (path,) = tmp_path.glob("*/*.json")
    assert f"record: {path}" in result.stdout
    record = records.read(path)
    assert record["machine"]["threads"] == 1
    assert not record["selection"]["complete"]  # -k left some out
    assert record["calibration"]["measured"]["threads"] == 1
    # A case for each step, all its providers in one row, with the floor.
    *timed, inference, training = record["rows"]
    assert [row["step"] for row in timed] == ["inference", "training"]
    for row in timed:
        assert {"fastrnn", "fastrnn.reference", "nn.RNN", "eager loop"} <= set(row["times"])
        assert ("onnxruntime" in row["times"]) == (row["step"] == "inference")
        assert len({times["turns"] for times in row["times"].values()}) == 1
        assert max(row["floor"].values()) < row["times"]["fastrnn"]["ms"][0]
    # pytest-benchmark was given the very same times.
    for test in json.loads(saved.read_text())["benchmarks"]:
        (row,) = (row for row in timed if row["step"] in test["name"])
        times = row["times"][test["param"].rpartition("float32-")[2]]
        assert 1e3 * test["stats"]["min"] == pytest.approx(times["ms"][0], rel=1e-3)
        assert test["stats"]["rounds"] == times["turns"]
    for row in (inference, training):
        assert "times" not in row
        assert row["least_mib"] <= row["mib"]["fastrnn"] < row["mib"]["nn.RNN"]
        assert "onnxruntime" not in row["mib"]  # it keeps what it has been given
    assert inference["mib"]["fastrnn"] < training["mib"]["fastrnn"]


def test_with_timing_off_nothing_is_measured_or_written(tmp_path: Path) -> None:
    result = bench(
        *("--shapes", "xma,length", "--benchmark-disable", "--results", str(tmp_path)),
        *("-k", "(64-heads or test_memory and 65536x8) and inference and not torch.compile"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "record:" not in result.stdout
    assert not list(tmp_path.iterdir())
    assert "skipped" not in result.stdout


def test_a_processor_is_calibrated_again_and_again_and_the_best_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = iter([3.0, 5.0, 4.0])

    def calibrate(threads: int) -> dict[str, Any]:
        return {"measured": {"multiply_add_rate": next(made)}, "errors": []}

    monkeypatch.setattr(session.cpu, "calibrate", calibrate)
    one = session.Session("quick", "few", "cpu", 0.01, None)
    seen = []
    for valid in (session.CALIBRATION_VALID, session.CALIBRATION_VALID, -1.0):
        monkeypatch.setattr(session, "CALIBRATION_VALID", valid)
        one._calibrate()
        seen.append(one.calibration["measured"]["multiply_add_rate"])
    assert seen == [3.0, 3.0, 5.0]
    assert one.record()["calibration"]["measured"]["multiply_add_rate"] == 5.0
    assert next(made, None) is None


def test_what_cannot_be_done_is_a_usage_error() -> None:
    class Config:
        def __init__(self, **options: object) -> None:
            usual = {"shapes": "quick", "baselines": "all", "device": "cpu", "budget": 1.0}
            self.options = {"threads": None, "benchmark_disable": False, **usual, **options}
            self.stash = pytest.Stash()

        def getoption(self, name: str, default: object = None) -> object:
            return self.options.get(name, default)

    configure: Any = conftest.pytest_configure
    with pytest.raises(pytest.UsageError, match="no shapes are named 'fastest'; choose of quick,"):
        configure(Config(shapes="fastest"))
    with pytest.raises(pytest.UsageError, match="side by side cannot be timed"):
        configure(Config(numprocesses=2))
    configure(Config(numprocesses=2, benchmark_disable=True))
    configure(Config(shapes="neuro,grid"))
