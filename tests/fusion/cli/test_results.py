"""The commands that use a finished run: evaluate, predict, explain and export."""

from __future__ import annotations

import json

import pytest

from fastrnn.fusion import cli
from tests.fusion.cli.test_cli import fit, lines, refusal

from ..trained import trained_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, and a copy of its table under another name."""
    folder = trained_run(tmp_path_factory.mktemp("finished"), "binary", baselines=False).folder
    table = folder.with_name("other.jsonl")
    table.write_bytes(folder.with_name("manifest.jsonl").read_bytes())
    return folder, table


@pytest.mark.parametrize("command", ["evaluate", "predict", "explain"])
@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta", ""])
def test_unusable_device(finished, command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = refusal([command, *map(str, finished), "--device", name], capsys)
    assert f"the device {name!r} cannot be used" in said
    assert said.endswith("; choose auto, cpu or cuda")


@pytest.mark.exhaustive
@pytest.mark.parametrize("num_workers", [pytest.param("0", marks=pytest.mark.exhaustive), "2"])
def test_results_do_not_depend_on_device_batches_and_processes(
    finished, num_workers, tmp_path, capsys
):
    run, table = finished
    out = tmp_path / "answers.jsonl"
    found = []
    how = ["--device", "cpu", "--batch-size", "3", "--num-workers", num_workers]
    for flags in ([], how):
        assert cli.main(["predict", str(run), str(table), "-o", str(out), *flags]) == 0
        for command in ("evaluate", "explain"):
            assert cli.main([command, str(run), str(table), *flags]) == 0
        evaluation, explanation = (
            json.loads((run / f"{name}.json").read_text()) for name in ("evaluation", "explanation")
        )
        for each in explanation["ablation"]:
            del each["shuffled"]  # takes a modality from another row of the batch
        found.append((lines(out), evaluation["models"]["fusion"]["scores"], explanation))
    (answers, scores, explanation), expected = found
    assert len(answers) == 40
    for one, other in zip(answers, expected[0], strict=True):
        assert (one["row"], one["label"]) == (other["row"], other["label"])
        # A batch pads to its longest row, which may change the order of sums: 100 roundings.
        assert one["probabilities"] == pytest.approx(other["probabilities"], rel=100 * 2**-24)
    for name in ("accuracy", "log_loss"):
        assert scores[name] == pytest.approx(expected[1][name], abs=1e-5)
    assert explanation == expected[2]


ARTICLE = ["--preset", "article", "--cell", "lstm", "--conv", "4", "--grid", "0"]


@pytest.mark.parametrize(
    ("more", "layers"), [([], {"RNN": 2}), (ARTICLE, {"LSTM": 2})], ids=["default", "article"]
)
def test_from_a_table_to_a_report(rows, save, tmp_path, capsys, more, layers):
    """Run all commands on one run, one after another."""
    rows = [{name: row[name] for name in ("image", "text", "label")} for row in rows]
    path, run = save(rows), tmp_path / "run"
    assert fit(path, run, "--no-baselines", *more) == 0
    capsys.readouterr()

    assert cli.main(["evaluate", str(run), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for text in ("fusion", "accuracy", "removed"):
        assert text in said
    found = json.loads((run / "evaluation.json").read_text())
    assert set(found["models"]) == {"fusion"}
    assert (run / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")

    assert cli.main(["explain", str(run), "--examples", "1"]) == 0
    assert json.loads((run / "explanation.json").read_text())
    assert list((run / "pictures").glob("*.png"))

    out = tmp_path / "answers.jsonl"
    assert cli.main(["predict", str(run), str(path), "--output", str(out)]) == 0
    assert "20 rows predicted" in capsys.readouterr().out
    assert len(lines(out)) == 20
    second = ["--block", "10", "--shard", "2/2", "-o", str(out)]
    assert cli.main(["predict", str(run), str(path), *second]) == 0
    assert [each["row"] for each in lines(out)] == list(range(10, 20))

    onnx = pytest.importorskip("onnx")
    assert cli.main(["export", str(run)]) == 0
    assert (run / "model.py").is_file()
    kinds = [node.op_type for node in onnx.load(str(run / "model.onnx")).graph.node]
    assert {kind: kinds.count(kind) for kind in ("RNN", "LSTM", "GRU") if kind in kinds} == layers
