"""Records, their comparison, and the tables for the terminal."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as commands
from benchmarks.report import records, tables
from benchmarks.runner import CaseResult
from benchmarks.shapes import Case, Shape
from benchmarks.timing import Times

from .factories import CASE, H200, found, record


def test_row_holds_the_case_its_times_and_its_bounds() -> None:
    row = records.row(found(), H200)
    assert records.case(row) == CASE
    theirs = row["times"]["nn.RNN"]
    assert theirs == {"ms": [4.0, 4.0, 4.0, 8.8], "turns": 3, "over": {"fastrnn": 4.0}}
    assert row["times"]["fastrnn"]["over"] == {"fastrnn": 1.0}
    assert set(row["floor"]) == {"arithmetic", "bytes", "steps", "call"}
    assert "floor" not in records.row(found())
    assert json.loads(json.dumps(row)) == row


def test_numbers_have_four_digits() -> None:
    row = records.row(CaseResult(CASE, times={"fastrnn": Times((1.234567, 1.234567))}))
    assert row["times"]["fastrnn"]["ms"] == [1.235] * 4


def test_case_without_a_time_has_a_reason() -> None:
    row = records.row(CaseResult(CASE, wrong={"fastrnn": "far off"}, too_long={"nn.RNN": 12.3456}))
    assert row["wrong"] == {"fastrnn": "far off"}
    assert row["too_long_s"] == {"nn.RNN": 12.35}
    assert "times" not in row
    (_, _, *text) = tables.summary([row])
    assert text == [
        "WRONG fastrnn, (100, 8, 64, 64) float32 inference: far off",
        "too slow to repeat: nn.RNN, (100, 8, 64, 64) float32 inference: 12 s per call",
    ]


def test_record_path_and_no_overwriting(tmp_path: Path) -> None:
    made = record(records.row(found()), records.row(found(2.0)))
    path = records.write(made, tmp_path)
    assert path == tmp_path / "some-x-1-avx2-2-threads" / "2030-01-02t03-04-abc1234-full.json"
    assert records.read(path) == made
    *head, first, second, end = path.read_text().splitlines()
    assert head[-1] == ' "rows": ['
    assert [json.loads(line.rstrip(",")) for line in (first, second)] == made["rows"]
    assert end == "]}"
    with pytest.raises(FileExistsError, match="already holds this record"):
        records.write(made, tmp_path)
    other = records.write(record(records.row(found())), tmp_path)
    assert other == path.with_stem(f"{path.stem}-2")
    assert records.read(path) == made
    assert records.paths(tmp_path) == {path.parent.name: [other, path]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not a record"),
        ("[]", "this is not a record of benchmarks"),
        ('{"format": 3, "environment": {}}', "this is not a record of benchmarks"),
        (
            '{"format": 9, "machine": {}, "selection": {}, "rows": []}',
            "format 9 is not supported, only 1",
        ),
    ],
)
def test_files_that_are_not_records_are_rejected(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        records.read(path)
    assert commands.main(["show", str(path)]) == 2
    assert reason in capsys.readouterr().err
    assert commands.main(["add", str(tmp_path / "nothing.json")]) == 2


def test_changes_are_relative_to_nn_rnn_of_the_same_run() -> None:
    """Ours and nn.RNN take twice as long: no change. Then only ours takes longer."""
    old = record(records.row(found(1.0, 4.0)))
    (change,) = records.compare(old, record(records.row(found(2.0, 8.0))))
    assert change.factor == 1
    assert not change.is_regression
    (change,) = records.compare(old, record(records.row(found(1.2, 4.0))))
    assert change.factor == pytest.approx(1.2, rel=1e-3)
    assert change.is_regression
    assert not change.is_certain  # a turn took three times as long


def test_changes_of_another_cell_are_relative_to_its_layer_of_torch() -> None:
    case = Case("lstm", "layer", Shape(8, 1, 16, 16, cell="lstm"), "float32", "inference")

    def of(ours: float, theirs: float) -> records.Record:
        times = {"fastrnn": Times((ours, ours)), "nn.LSTM": Times((theirs, theirs))}
        return record(records.row(CaseResult(case, times=times)))

    (change,) = records.compare(of(1.0, 4.0), of(2.0, 8.0))
    assert change.factor == 1
    (row,) = of(1.0, 4.0)["rows"]
    assert tables.summary([row])[-2] == (
        "inference: 4.00 times as fast as nn.LSTM in the geometric mean of 1 cases, 4.00 at worst"
    )


def test_compare_prints_regressions_and_returns_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def steady(ours: float, mib: float, minute: int) -> Path:
        times = {"fastrnn": Times((ours, ours)), "nn.RNN": Times((4.0, 4.0))}
        rows = (
            records.row(CaseResult(CASE, times=times)),
            records.row(CaseResult(CASE, mib={"fastrnn": mib})),
        )
        return records.write(record(*rows, date=f"2030-01-02T03:{minute}+00:00"), tmp_path)

    first, slower, fatter, same = (
        steady(*values)
        for values in ((1.0, 10.0, 10), (1.1, 10.0, 11), (0.9, 20.0, 12), (1.02, 10.2, 13))
    )
    assert commands.main(["compare", str(first), str(same)]) == 0
    assert "0 grew by more than 5 %" in capsys.readouterr().out
    assert commands.main(["compare", str(first), str(slower)]) == 1
    assert "  1.10  fastrnn  layer (100, 8, 64, 64) float32 inference\n" in capsys.readouterr().out
    assert commands.main(["compare", str(first), str(fatter)]) == 1
    said = capsys.readouterr().out
    assert "  2.00  fastrnn  layer (100, 8, 64, 64) float32 inference memory\n" in said
    assert "largest improvements:\n   0.90" in said


def test_compare_without_common_cases_returns_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Case("overview", "layer", Shape(1, 2, 3, 4), "float32", "inference")
    paths = [
        records.write(record(records.row(found(case=case)), commit=commit), tmp_path)
        for case, commit in ((CASE, "a"), (other, "b"))
    ]
    assert commands.main(["compare", *map(str, paths)]) == 2
    assert "no case in common" in capsys.readouterr().err


def test_best_baseline_is_the_fastest() -> None:
    times = {"fastrnn": 2.0, "fastrnn.reference": 9.0, "nn.RNN": 3.0, "eager loop": 1.0}
    row = records.row(
        CaseResult(CASE, times={name: Times((ms,)) for name, ms in times.items()}), H200
    )
    line = tables.line(row)
    assert line is not None
    assert (line.ours, line.baseline, line.ms, line.baseline_ms) == ("fastrnn", "eager loop", 2, 1)
    assert line.ratio == 0.5
    assert line.over("nn.RNN") == 1.5
    assert line.is_losing
    assert line.over_bound == pytest.approx(2 / max(row["floor"].values()))
    # Without a provider of that name, as on a GPU, the fastest of ours counts.
    del times["fastrnn"]
    times["fastrnn.cuda"] = 0.5
    row = records.row(CaseResult(CASE, times={name: Times((ms,)) for name, ms in times.items()}))
    line = tables.line(row)
    assert line is not None
    assert (line.ours, line.ratio, line.over_bound) == ("fastrnn.cuda", 2, None)
    assert tables.line(records.row(CaseResult(CASE, times={"nn.RNN": Times((1.0,))}))) is None


def test_all_records_can_be_read() -> None:
    for paths in records.paths().values():
        for path in paths:
            rows = records.read(path)["rows"]
            assert rows
            for row in rows:
                assert records.case(row).shape.T >= 1


def test_commands_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        commands.main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for command in ("shapes", "show", "compare", "add", "report"):
        assert command in said
    assert commands.main(["shapes"]) == 0
    assert "quick: overview" in capsys.readouterr().out
