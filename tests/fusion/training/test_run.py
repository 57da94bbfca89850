"""Test whole runs: the run folder, loading, reproducibility and the printed output."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import save as to_bytes

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    FitConfig,
    LoaderConfig,
    ManifestError,
    TrainConfig,
    checkpoint,
    fit,
    load,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.evaluation.run_data import run_rows
from fastrnn.fusion.report import console as tables
from fastrnn.fusion.report.console import results
from fastrnn.fusion.report.report import write_report

from ..conftest import write_jsonl

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12)
OPTIONS = {"width": 16, "hidden": 24, "conv": (4, 8), "grid": 2}
QUIET = Console(quiet=True)


def quick(path, folder, **others):
    config = FitConfig(DATA, OPTIONS, TrainConfig(epochs=2, batch_size=8), **others)
    return fit(read_manifest(path), folder, config, console=QUIET)


def content(folder):
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize("problem_type", ["static", "multiclass", "streams"])
def test_loaded_run_gives_identical_predictions(rows, streams, save, tmp_path, problem_type):
    if problem_type == "multiclass":
        rows = [row | {"label": number % 3} for number, row in enumerate(rows)]
    path = save(streams if problem_type == "streams" else rows)
    run = quick(path, tmp_path / "run", baselines=False)
    model, processor, config = load(tmp_path / "run")
    assert config == run.config
    assert processor.to_dict() == run.processor.to_dict()
    assert config.model.problem_type == {"static": "binary", "streams": "steps"}.get(
        problem_type, problem_type
    )
    manifest = read_manifest(path, config.columns)
    batch = load_dataset(manifest, processor).batch(range(20))
    with torch.no_grad():
        assert torch.equal(model(batch), run.trained[0].model.eval()(batch))
    names = {each.name for each in (tmp_path / "run").iterdir()}
    text = set() if problem_type == "streams" else {"tokenizer.json"}
    files = {"config.json", "processor_config.json", "model.safetensors"}
    assert names == {*files, "metrics.jsonl", "models", "split.json"} | text
    again = checkpoint.load_network(run.folder, checkpoint.names(run.folder)[0])
    with torch.no_grad():
        assert torch.equal(model(batch), again(batch))


@pytest.mark.exhaustive
def test_the_same_seed_gives_the_same_run(rows, save, tmp_path):
    path = save(rows)
    first, second = (quick(path, tmp_path / name) for name in "ab")
    for one, other in zip(first.trained, second.trained, strict=True):
        assert one.epochs == other.epochs
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
def test_config_json_names_the_networks(rows, save, tmp_path):
    run = quick(save(rows), tmp_path / "run")
    names = [each.name for each in run.trained]
    assert names[0] == "fusion"
    assert list(run.config.models) == names == checkpoint.names(run.folder)
    (run.folder / "metrics.jsonl").unlink()
    assert checkpoint.names(run.folder) == names
    assert evaluate_run(run.folder)["main"] == "fusion"


def test_one_modality(rows, save, tmp_path):
    path = save([{"text": row["text"], "label": row["label"]} for row in rows])
    assert [each.name for each in quick(path, tmp_path / "run").trained] == [
        "text only",
        "no recurrence",
    ]


def test_load_rejects_folders_that_are_not_runs(rows, save, tmp_path):
    with pytest.raises(ConfigError, match="give a run's folder"):
        load(tmp_path)
    config = quick(save(rows), tmp_path / "run", baselines=False).config.to_json()
    for name, said, change in (
        ("config.json", "flavour", {"model": config["model"] | {"flavour": "sweet"}}),
        ("config.json", "model.outputs is 9, but 1", {"model": config["model"] | {"outputs": 9}}),
        ("processor_config.json", "3 labels do not match", {"labels": ["a", "b", "c"]}),
    ):
        file = tmp_path / "run" / name
        before = file.read_text()
        file.write_text(json.dumps(json.loads(before) | change))
        with pytest.raises(ConfigError, match=said) as caught:
            load(tmp_path / "run")
        assert str(file) in str(caught.value)
        file.write_text(before)
    weights = tmp_path / "run" / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], to_bytes({"other": torch.zeros(1)})):
        weights.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not this network's weights, or damaged"):
            load(tmp_path / "run")


@pytest.mark.parametrize("count", [2, 3])
def test_evaluation_rejects_labels_unseen_in_training(rows, save, tmp_path, count):
    rows = [row | {"label": "abc"[number % count]} for number, row in enumerate(rows)]
    folder = quick(save(rows), tmp_path / "run", baselines=False).folder
    rows[3]["label"] = "perhaps"
    other = write_jsonl(tmp_path / "other.jsonl", rows)
    with pytest.raises(ManifestError, match=r"other.jsonl, line 4: the label 'perhaps' was not in"):
        evaluate_run(folder, other)
    found = evaluate_run(folder, other, on_bad_row="skip")
    assert found["rows"] == 19
    assert [each["where"] for each in found["skipped"]] == ["line 4"]


def test_an_earlier_run_is_not_overwritten(rows, save, tmp_path):
    path = save(rows)
    quick(path, tmp_path / "run", baselines=False)
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"already contains metrics\.jsonl"):
        quick(path, tmp_path / "run", baselines=False)
    assert before == content(tmp_path / "run")


def fit_output(path, folder, **loading):
    """Fit, and return the run and the printed text."""
    console = Console(file=io.StringIO(), width=200)
    loader = LoaderConfig(**loading)
    config = FitConfig(DATA, OPTIONS, TrainConfig(epochs=1, batch_size=8), loader, baselines=False)
    manifest = read_manifest(path, on_bad_row=loader.on_bad_row)
    run = fit(manifest, folder, config, console=console)
    return run, console.file.getvalue()


def test_skipped_rows_are_counted_and_reported(rows, save, tmp_path):
    for number, row in enumerate(rows):
        row["split"] = "test" if number > 16 else "val" if number > 13 else "train"
    for number in (1, 3, 17):  # damaged files, detected by decoding
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    rows[4]["audio"] = "gone.wav"
    rows[6]["label"] = ""  # detected when the table is read
    run, output = fit_output(save(rows), tmp_path / "run", on_bad_row="skip")
    assert "manifest.jsonl: 20 rows\n" in output
    assert "binary labels: no 8, yes 7\n" in output
    assert "split: 10 train, 3 val, 2 test (from column split)\n" in output
    assert "5 rows skipped, see skipped.jsonl\n" in output
    assert str(results(run).title).endswith("on 2 test rows")
    lines = [json.loads(line) for line in (run.folder / "skipped.jsonl").read_text().splitlines()]
    assert [(each["where"], each.get("split")) for each in lines] == [
        ("line 7", None),
        ("line 2", "train"),
        ("line 4", "train"),
        ("line 5", "train"),
        ("line 18", "test"),
    ]
    assert "gone.wav" in lines[3]["error"]
    assert "10 train, 3 val, 2 test" in write_report(run.folder).read_text()
    found = evaluate_run(run.folder)
    assert any("2 rows skipped, see" in str(each) for each in tables.evaluation(found))


def test_evaluation_rejects_a_table_with_a_restored_row(rows, save, tmp_path):
    run, _ = fit_output(
        save([*rows[:4], rows[4] | {"label": ""}, *rows[5:]]), tmp_path / "run", on_bad_row="skip"
    )
    before = evaluate_run(run.folder)["rows"]
    save(rows)
    with pytest.raises(ConfigError, match="20 rows can be read now, but 19 when the run was"):
        evaluate_run(run.folder)
    assert before == 2


def test_a_restored_file_does_not_move_other_rows_to_another_split(rows, save, tmp_path):
    picture = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").unlink()
    run, _ = fit_output(save(rows), tmp_path / "run", on_bad_row="skip")
    assert "4.png" in (run.folder / "skipped.jsonl").read_text()
    assert sorted(row for part in run.parts.values() for row in part) == list(range(20))
    (tmp_path / "4.png").write_bytes(picture)
    assert run_rows(run.folder, split="test").dataset.rows.tolist() == run.parts["test"]


def test_labels_are_printed_with_their_counts(save, tmp_path):
    labels = ["yes"] * 9 + ["no"] * 9 + ["YES", "nan"]
    path = save([{"text": f"{n}", "label": label} for n, label in enumerate(labels)])
    _, output = fit_output(path, tmp_path / "run")
    assert "multiclass labels: YES 1, nan 1, no 9, yes 9\n" in output


def test_equal_texts_in_different_splits_cause_a_warning(save, tmp_path):
    path = save([{"text": "ab"[n % 2], "label": n % 2} for n in range(20)])
    _, output = fit_output(path, tmp_path / "run")
    assert "warning: the text 'a' is in train (line" in output
