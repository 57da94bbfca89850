"""The suite that `pytest benchmarks` runs, over a few of its cases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import runner
from benchmarks.baselines.ours import Fastrnn
from benchmarks.shapes import Case, Shape
from benchmarks.workload import Workload

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *words]
    # pytest-benchmark times nothing in a worker of xdist, which this test may run in.
    environment = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_a_saved_time_has_its_provider_shape_and_machine(tmp_path: Path) -> None:
    saved = tmp_path / "times.json"
    result = bench(
        *("--threads", "1", "--benchmark-max-time=0.01", f"--benchmark-json={saved}"),
        *("-k", "100x8x64x64 and training"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "benchmarks: quick shapes, on cpu, 1 threads" in result.stdout
    found = json.loads(saved.read_text())
    assert found["machine_info"]["fastrnn"]["threads"] == 1
    assert {one["group"] for one in found["benchmarks"]} == {
        "layer (100, 8, 64, 64) float32 training"
    }
    for one in found["benchmarks"]:
        info = one["extra_info"]
        assert info["provider"] in one["name"]
        assert info["machine"].endswith("1-threads")
        assert (info["threads"], info["dtype"], info["step"]) == (1, "float32", "training")
        assert Shape(**info["shape"]) == Shape(100, 8, 64, 64)
        assert one["stats"]["rounds"] >= 5
    providers = {one["extra_info"]["provider"] for one in found["benchmarks"]}
    assert providers - {"jax scan"} == {"fastrnn", "nn.RNN", "eager loop"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shapes", "fastest"), "unknown shapes 'fastest'; choose from quick,"),
        (("--shapes", "cudnn", "--device", "cpu"), "these shapes are not measured on cpu"),
    ],
)
def test_wrong_shapes_are_a_usage_error(words: tuple[str, ...], message: str) -> None:
    result = bench(*words)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = Fastrnn.prepare

    def twice(self: Fastrnn, workload: Workload) -> object:
        call = prepare(self, workload)
        return lambda inputs: [2 * result for result in call(inputs)]

    case = Case("some", "layer", Shape(5, 2, 3, 4), "float32", "inference")
    with runner.verified_call(Fastrnn(), Workload(case)) as call:
        first, second = call(), call()
    assert not torch.equal(first[0], second[0])  # the inputs alternate
    monkeypatch.setattr(Fastrnn, "prepare", twice)
    wrong = runner.verified_call(Fastrnn(), Workload(case))
    with pytest.raises(AssertionError, match="the output is"), wrong:
        pytest.fail("the call was made available")
