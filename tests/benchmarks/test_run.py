"""`python -m benchmarks run`, over a few cases."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as commands
from benchmarks import baselines, run, runner
from benchmarks.baselines.ours import Fastrnn
from benchmarks.report import records
from benchmarks.session import Session
from benchmarks.workload import Workload


class Wrong(Fastrnn):
    """Returns twice the output."""

    def prepare(self, workload: Workload) -> Any:
        call = super().prepare(workload)
        return lambda inputs: [2 * result for result in call(inputs)]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser.parse_args(words)


def only_record(folder: Path) -> records.Record:
    (path,) = folder.glob("*/*.json")
    return records.read(path)


@pytest.mark.exhaustive
def test_times_and_peaks_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = commands.main(
        [
            *("run", "--shapes", "fusion,length", "--budget", "0.02", "--results", str(tmp_path)),
            # Without the providers that take long to start or to compile.
            *(
                "-k",
                "(time.*/4x32x128x64.*(inference|training)|memory.*/512x8).*/(?!torch|jax|open)",
            ),
        ]
    )
    said = capsys.readouterr().out
    assert status == 0, said
    (path,) = tmp_path.glob("*/*.json")
    assert f"record: {path}" in said
    assert "[1/4] layer (4, 32, 128, 64) float32 inference: fastrnn " in said
    record = records.read(path)
    assert not record["selection"]["complete"]  # -k left some out
    assert record["calibration"]["measured"]["threads"] == record["machine"]["threads"]
    # One row for each step, with all providers and the lower bounds.
    *timed, inference, training = record["rows"]
    assert [row["step"] for row in timed] == ["inference", "training"]
    for row in timed:
        assert {"fastrnn", "fastrnn.reference", "nn.RNN", "eager loop"} <= set(row["times"])
        assert ("onnxruntime" in row["times"]) == (row["step"] == "inference")
        assert len({times["turns"] for times in row["times"].values()}) == 1
        assert max(row["floor"].values()) < row["times"]["fastrnn"]["ms"][0]
    for row in (inference, training):
        assert "times" not in row
        assert row["least_mib"] <= row["mib"]["fastrnn"] < row["mib"]["nn.RNN"]
        assert "onnxruntime" not in row["mib"]  # its arena hides the peak
    assert inference["mib"]["fastrnn"] < training["mib"]["fastrnn"]


@pytest.mark.exhaustive
def test_verify_only_records_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--shapes", "xma,length", "--verify-only", "--jobs", "2"]
    pattern = "(64-heads|memory.*/65536x8).*/inference/(?!torch)"
    assert commands.main(["run", *words, "-k", pattern, "--results", str(tmp_path)]) == 0
    assert "results of 2 cases: none wrong" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """Two cases, with a provider whose results are wrong and no calibration."""
    monkeypatch.setitem(baselines._PROVIDERS, "few", (Wrong(), *baselines._PROVIDERS["few"][3:4]))
    monkeypatch.setattr(Session, "_calibrate", lambda self: None)
    return Session("short", "few", "cpu", 0.001, pattern="/1x1x16x16/")


def test_a_wrong_result_is_reported_and_recorded(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.measure_all(session, tmp_path) == 1
    assert "fastrnn WRONG: the output is" in capsys.readouterr().out
    for row in only_record(tmp_path)["rows"]:
        assert set(row["times"]) == {"nn.RNN"}
        assert "the output is" in row["wrong"]["fastrnn"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), runner.DeviceLost("CUDA error")])
def test_the_results_before_an_interruption_are_recorded(
    error: BaseException,
    session: Session,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure = session.measure

    def interrupted(quantity: str, case: Any) -> runner.CaseResult:
        if session.results:
            raise error
        return measure(quantity, case)

    monkeypatch.setattr(session, "measure", interrupted)
    assert run.measure_all(session, tmp_path) == 2
    assert f"interrupted: {error}" in capsys.readouterr().out
    record = only_record(tmp_path)
    assert len(record["rows"]) == 1
    assert not record["selection"]["complete"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shapes", "fastest"), "unknown shapes 'fastest'; choose from quick,"),
        (("-k", "nothing"), "no benchmark is selected"),
        (("-k", "("), "'(' is not a regular expression"),
    ],
)
def test_a_wrong_option_is_explained(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["run", *words]) == 2
    assert message in capsys.readouterr().err


def test_defaults() -> None:
    given = parse()
    assert (given.shapes, given.baselines, given.results) == ("quick", "all", records.RESULTS)
    assert 1 <= given.jobs <= run.MAX_JOBS
