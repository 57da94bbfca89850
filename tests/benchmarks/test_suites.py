"""The suites as pytest runs them, over a few of their cases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import records

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *words]
    # These tests may be a worker's, which the benchmarks are not.
    alone = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)


def test_a_run_measures_shows_and_records(tmp_path: Path) -> None:
    saved = tmp_path / "times.json"
    result = bench(
        *("--shapes", "fusion", "--budget", "0.02", "--results", str(tmp_path), "--threads", "1"),
        *("-k", "4x32x128x64 and float32 and not torch.compile and not forward"),
        f"--benchmark-json={saved}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "benchmarks: fusion shapes, on cpu, 1 threads" in result.stdout
    (path,) = tmp_path.glob("*/*.json")
    assert f"record: {path}" in result.stdout
    record = records.read(path)
    assert record["machine"]["threads"] == 1
    assert not record["selection"]["complete"]  # -k left some out
    assert record["calibration"]["measured"]["threads"] == 1
    # A case for each step, all its providers in one row, with the floor.
    assert [row["step"] for row in record["rows"]] == ["inference", "training"]
    for row in record["rows"]:
        assert {"fastrnn", "fastrnn.reference", "nn.RNN", "eager loop"} <= set(row["times"])
        assert ("onnxruntime" in row["times"]) == (row["step"] == "inference")
        assert len({times["turns"] for times in row["times"].values()}) == 1
        assert max(row["floor"].values()) < row["times"]["fastrnn"]["ms"][0]
    # pytest-benchmark was given the very same times.
    for test in json.loads(saved.read_text())["benchmarks"]:
        (row,) = (row for row in record["rows"] if row["step"] in test["name"])
        times = row["times"][test["param"].rpartition("float32-")[2]]
        assert 1e3 * test["stats"]["min"] == pytest.approx(times["ms"][0], rel=1e-3)
        assert test["stats"]["rounds"] == times["turns"]


def test_processes_side_by_side_are_not_timed() -> None:
    result = bench("--shapes", "fusion", "-n", "2")
    assert result.returncode == 4
    assert "cannot be timed" in result.stderr


def test_memory_is_measured_too(tmp_path: Path) -> None:
    result = bench(
        *("--shapes", "length", "--budget", "0.02", "--results", str(tmp_path)),
        *("-k", "test_memory and 2048x8 and not torch.compile and not reference"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.glob("*/*.json")
    inference, training = records.read(path)["rows"]
    for row in (inference, training):
        assert "times" not in row
        assert row["least_mib"] <= row["mib"]["fastrnn"] + records.GRAIN
        assert row["mib"]["fastrnn"] < row["mib"]["nn.RNN"]
    assert inference["mib"]["fastrnn"] < training["mib"]["fastrnn"]


def test_with_timing_off_nothing_is_measured_or_written(tmp_path: Path) -> None:
    result = bench(
        *("--shapes", "overview,xma", "--benchmark-disable", "--results", str(tmp_path)),
        *("-k", "(1000x1 or 64-heads) and not torch.compile"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "record:" not in result.stdout
    assert not list(tmp_path.iterdir())
    assert "skipped" not in result.stdout


def test_an_unknown_name_of_shapes_is_a_usage_error() -> None:
    result = bench("--shapes", "fastest")
    assert result.returncode == 4
    assert "no shapes are named 'fastest'; choose of quick, full" in result.stderr


def test_help_tells_the_names() -> None:
    result = bench("--help")
    for words in ("--shapes", "quick, full, overview", "--budget", "--results", "--peers"):
        assert words in " ".join(result.stdout.split())
