"""Test predictions for tables: formats, damaged rows, blocks, and atomic output files."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest
import torch
from rich.console import Console

from fastrnn.fusion import (
    ConfigError,
    DataError,
    FitConfig,
    FusionError,
    ManifestError,
    TrainConfig,
    fit,
    load,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.files import atomic
from fastrnn.fusion.inference.loop import InferenceConfig
from fastrnn.fusion.inference.predictor import Counts, Predictor, predict_file

from .conftest import DATA, OPTIONS, read, trained


def unlabelled(rows):
    return [{name: each for name, each in row.items() if name != "label"} for row in rows]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("target", ["jsonl", "parquet"])
def test_every_format_gives_the_outputs_of_the_network(
    predictor, rows, save, tmp_path, ending, target
):
    if ending == "parquet":
        source = tmp_path / "rows.parquet"
        pd.DataFrame(unlabelled(rows)).to_parquet(source)
    else:
        source = save(unlabelled(rows), ending)
    out = tmp_path / f"answers.{target}"
    assert predict_file(predictor, source, out, block=7) == Counts(20, 0)
    table = read_manifest(save(rows), predictor.config.columns)
    batch = load_dataset(table, predictor.processor).batch(range(20))
    with torch.no_grad():
        second = predictor.network(batch)[:, 0].sigmoid()
    records = read(out)
    assert [each["row"] for each in records] == list(range(20))
    for record, p in zip(records, second.tolist(), strict=True):
        assert set(record) == {"row", "label", "probabilities"}
        # A block pads to its longest row, which may change the order of sums: 100 roundings.
        assert record["probabilities"]["yes"] == pytest.approx(p, rel=100 * 2**-24)
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert record["label"] == ("yes" if p > 0.5 else "no")


def test_the_threshold_changes_the_prediction(predictor, rows, save, tmp_path):
    out = tmp_path / "answers.jsonl"
    for threshold, label in ((0.0, "yes"), (1.0, "no")):
        predict_file(replace(predictor, threshold=threshold), save(rows), out)
        assert {each["label"] for each in read(out)} == {label}


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.5"])
def test_a_threshold_must_be_a_probability(predictor, threshold):
    with pytest.raises(ConfigError, match="threshold must be a"):
        replace(predictor, threshold=threshold)


def test_column_names_that_are_not_valid_unicode(predictor, rows, save, tmp_path):
    path = save([rows[0], rows[1] | {"\ud800": "1"}])
    with pytest.raises(ManifestError, match=r"line 2: the name '.*' is not valid Unicode"):
        predict_file(predictor, path, tmp_path / "answers.jsonl")


def test_bad_rows_raise_or_are_listed_in_place(predictor, rows, save, tmp_path):
    rows = unlabelled(rows)
    rows[2]["image"] = "gone.png"
    (tmp_path / "5.png").write_bytes(b"no picture")
    rows[9] = {"image": "", "audio": "", "text": ""}
    source, out = save(rows), tmp_path / "out" / "answers.jsonl"
    lines = source.read_text().splitlines()
    lines[11] = "{"
    source.write_text("\n".join(lines))
    with pytest.raises(FusionError, match=r"manifest\.jsonl, line 3.*gone\.png"):
        predict_file(predictor, source, out, block=4)
    assert list(out.parent.iterdir()) == []
    predictor = replace(predictor, on_bad_row="skip")
    assert predict_file(predictor, source, out, block=4) == Counts(16, 4)
    assert [each.name for each in out.parent.iterdir()] == [out.name]
    records = read(out)
    assert [each["row"] for each in records] == list(range(20))
    bad = {each["row"]: each["error"] for each in records if "error" in each}
    assert set(bad) == {2, 5, 9, 11}
    for row, part in ((2, "gone.png"), (5, "5.png"), (9, "empty"), (11, "not JSON")):
        assert f"line {row + 1}" in bad[row]
        assert part in bad[row]


def test_an_existing_file_is_kept_if_prediction_fails(predictor, rows, save, tmp_path):
    out = tmp_path / "answers.jsonl"
    out.write_text("earlier\n")
    rows[12]["image"] = "gone.png"
    with pytest.raises(FusionError, match=r"gone\.png"):
        predict_file(predictor, save(rows), out, block=4)
    assert out.read_text() == "earlier\n"
    assert not list(tmp_path.glob(".*.part"))


def test_an_optional_modality_needs_no_column(predictor, rows, save, tmp_path):
    out = tmp_path / "answers.jsonl"
    source = save([{"image": row["image"]} for row in rows])
    assert predict_file(predictor, source, out) == Counts(20, 0)


def test_a_required_modality_must_be_present(rows, save, tmp_path):
    rows = [{"photo": row["image"], "text": row["text"], "label": row["label"]} for row in rows]
    predictor = trained(save(rows), tmp_path / "run")
    out = tmp_path / "answers.jsonl"
    with pytest.raises(ConfigError, match=r"no column 'photo'.* --image NAME"):
        predict_file(predictor, save([{"text": "a", "picture": "0.png"}]), out)
    with pytest.raises(ManifestError, match="line 2: text is missing, but the model was not"):
        predict_file(predictor, save([rows[0], rows[1] | {"text": None}]), out)
    source = save([{"text": "a", "picture": "0.png"}])
    assert predict_file(predictor, source, out, columns={"image": "picture"}) == Counts(1, 0)
    with pytest.raises(ConfigError, match="reads image, text but not audio"):
        predict_file(predictor, source, out, columns={"audio": "picture"})


@pytest.mark.parametrize("problem_type", ["multiclass", "multilabel", "regression", "steps"])
@pytest.mark.parametrize("target", ["jsonl", "parquet"])
def test_every_kind_of_label(rows, streams, save, tmp_path, problem_type, target):
    if problem_type == "steps":
        rows = streams
    else:
        labels = {
            "multiclass": lambda n: str(n % 3),
            "multilabel": lambda n: ["a", "b", "a|b"][n % 3],
            "regression": lambda n: 100 + n / 2,
        }[problem_type]
        rows = [
            {"image": row["image"], "text": row["text"], "label": labels(number)}
            for number, row in enumerate(rows)
        ]
    predictor = trained(save(rows), tmp_path / "run", problem_type)
    assert predictor.config.model.problem_type == problem_type
    out = tmp_path / f"answers.{target}"
    assert predict_file(predictor, save(unlabelled(rows)), out, block=8) == Counts(20, 0)
    records = read(out)
    labels = set(predictor.processor.task.labels)
    for row, record in zip(rows, records, strict=True):
        if problem_type == "regression":
            assert set(record) == {"row", "value"}
            assert 80 < record["value"] < 130  # the labels' units: 100 to 109.5
        elif problem_type == "steps":
            assert len(record["label"]) == len(record["probabilities"]) == len(row["image"])
            assert set(record["label"]) <= labels
            for label, named in zip(record["label"], record["probabilities"], strict=True):
                assert max(named, key=named.get) == label
        elif problem_type == "multilabel":
            named = record["probabilities"]
            assert record["label"] == [name for name in sorted(labels) if named[name] > 0.5]
        else:
            named = record["probabilities"]
            assert set(named) == labels
            assert max(named, key=named.get) == record["label"]


def test_a_regression_with_a_large_offset(save, tmp_path):
    values = [1.7e9 + 50 * (number % 2) + number % 5 for number in range(60)]
    rows = [
        {"text": f"{number % 2} {number % 5}", "label": value, "split": split}
        for number, value in enumerate(values)
        for split in [("train", "train", "val", "test")[number // 15]]
    ]
    path = save(rows)
    train = TrainConfig(epochs=15, batch_size=10, learning_rate=1e-2)
    table = read_manifest(path, problem_type="regression")
    config = FitConfig(DATA, OPTIONS, train, baselines=False)
    fit(table, tmp_path / "run", config, console=Console(quiet=True))
    out = tmp_path / "answers.jsonl"
    predict_file(Predictor(*load(tmp_path / "run")), path, out)
    found = torch.tensor([record["value"] for record in read(out)[45:]], dtype=torch.float64)
    truth = torch.tensor(values[45:], dtype=torch.float64)
    assert found[::2].min() > 1.7e9 + 25 > found[1::2].max()
    told = evaluate_run(tmp_path / "run")["models"]["text only"]
    r2 = 1 - (found - truth).square().sum() / (truth - truth.mean()).square().sum()
    assert told["scores"]["r2"]["value"] == pytest.approx(float(r2), abs=1e-6)
    assert r2 > 0.9
    assert [point[1] for point in told["points"]] == pytest.approx(found.tolist(), abs=1e-3)


@pytest.mark.parametrize("bad", ["error", "skip"])
def test_a_prediction_is_never_nan(predictor, rows, save, tmp_path, bad):
    with torch.no_grad():
        next(iter(predictor.network.parameters())).fill_(float("nan"))
    out = tmp_path / "answers.jsonl"
    if bad == "error":
        with pytest.raises(DataError, match="line 1: the model's output is not finite"):
            predict_file(predictor, save(unlabelled(rows)), out)
        assert not out.exists()
    else:
        counts = predict_file(replace(predictor, on_bad_row=bad), save(unlabelled(rows)), out)
        assert counts == Counts(0, 20)


@pytest.mark.slow
def test_rows_must_be_streams_as_in_training(rows, streams, save, tmp_path):
    streams = [row | {"label": "ab"[number % 2]} for number, row in enumerate(streams)]
    for table, other, said in ((streams, rows, "list of images"), (rows, streams, "one image")):
        table, other = (
            [{"image": row["image"], "label": row["label"]} for row in each]
            for each in (table, other)
        )
        predictor = trained(save(table), tmp_path / said)
        out = tmp_path / "answers.jsonl"
        assert predict_file(predictor, save(unlabelled(table)), out) == Counts(20, 0)
        with pytest.raises(ConfigError, match=said):
            predict_file(predictor, save(unlabelled(other)), out)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.csv", "image,audio,text\n", "the table has no rows"),
        ("rows.csv", "image,image\n1,2\n", "'image' appears twice"),
        ("rows.csv", "image,audio,text\n1.png,1.wav,a,b\n", "line 2: 4 cells but 3 columns"),
        ("rows.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("rows.parquet", "text", "Parquet file"),
        ("rows.txt", "text", "must end in .csv, .jsonl, .parquet or .tar"),
    ],
)
def test_tables_that_cannot_be_read(predictor, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError) as caught:
        predict_file(predictor, tmp_path / name, tmp_path / "answers.jsonl")
    assert said in str(caught.value)
    assert not (tmp_path / "answers.jsonl").exists()


def test_other_formats_are_not_written(predictor, rows, save, tmp_path):
    with pytest.raises(ConfigError, match=r"\.jsonl or \.parquet"):
        predict_file(predictor, save(rows), tmp_path / "answers.txt")
    assert not list(tmp_path.glob("*answers*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending",
    ["csv", *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("jsonl", "parquet"))],
)
def test_memory_does_not_grow_with_the_table(rows, save, tmp_path, ending):
    rows = [{"text": row["text"], "label": row["label"]} for row in rows]
    predictor = trained(save(rows), tmp_path / "run")
    out = tmp_path / "answers.jsonl"

    def peak(count):
        path = tmp_path / f"{count}.{ending}"
        frame = pd.DataFrame({"text": [f"a text of row {number}" for number in range(count)]})
        if ending == "csv":
            frame.to_csv(path, index=False)
        elif ending == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path, row_group_size=256)
        del frame
        tracemalloc.start()
        assert predict_file(predictor, path, out, block=64) == Counts(count, 0)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(100)  # the first call allocates memory that stays
    # 3,000 more rows would take a megabyte more if they were kept. Both tables fill the caches.
    assert peak(4_500) < peak(1_500) + 300_000


@pytest.mark.slow
@pytest.mark.parametrize("problem_type", ["binary", "steps"])
def test_predictions_do_not_depend_on_batches_and_processes(
    rows, streams, save, tmp_path, problem_type
):
    rows = streams if problem_type == "steps" else rows
    path = save(rows)
    predictor = trained(path, tmp_path / "run", problem_type)
    (expected,) = predictor.predict(path)
    for batch_size, num_workers, block in ((1, 0, 1024), (3, 2, 1024), (256, 1, 7)):
        other = replace(predictor, inference=InferenceConfig(batch_size, num_workers))
        found = [record for records in other.predict(path, block=block) for record in records]
        assert [each["row"] for each in found] == list(range(20))
        for one, two in zip(found, expected, strict=True):
            assert one["label"] == two["label"]
            # A batch pads to its longest row, which may change the order of sums: 100 roundings.
            assert numbers(one) == pytest.approx(numbers(two), rel=100 * 2**-24)


def numbers(record):
    named = record["probabilities"]
    each = named if isinstance(named, list) else [named]
    return [value for one in each for value in one.values()]


def test_tables_in_memory(predictor, rows, save, tmp_path):
    """Their paths are relative to the given root; errors name a DataFrame's own labels."""
    rows = unlabelled(rows)
    (expected,) = predictor.predict(save(rows))
    frame = pd.DataFrame(rows, index=[f"case {number}" for number in range(20)])
    for table in (frame, pa.Table.from_pylist(rows)):
        assert list(predictor.predict(table, root=tmp_path)) == [expected]
    with pytest.raises(ManifestError, match="DataFrame: the table has no rows"):
        list(predictor.predict(frame[:0], root=tmp_path))
    frame.loc["case 7", "image"] = "gone.png"
    with pytest.raises(FusionError, match="row case 7"):
        list(predictor.predict(frame, root=tmp_path))


def test_a_column_of_another_type_is_not_missing(predictor, rows):
    records = [row | {"image": {"bytes": b"", "path": row["image"]}} for row in rows]
    with pytest.raises(ManifestError, match="is not a path"):
        list(predictor.predict(pa.Table.from_pylist(records)))


def test_errors_are_equal_in_fit_and_predict(predictor, rows, save):
    """One file has one numbering."""
    rows[3]["image"] = "gone.png"
    path = save(rows, "csv")
    with pytest.raises(DataError) as fitted:
        load_dataset(read_manifest(path), predictor.processor).batch(range(20))
    with pytest.raises(DataError) as predicted:
        list(predictor.predict(path))
    assert str(fitted.value) == str(predicted.value)
    assert "line 5" in str(predicted.value)


def test_a_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "deep" / "file"
    with atomic(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"

    def interrupted():
        with atomic(path) as part:
            part.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "whole"
    assert [each.name for each in path.parent.iterdir()] == ["file"]
