"""A row has one name: the same in fit and in predict, for every format of a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from fastrnn.fusion import (
    DataError,
    ModelConfig,
    Processor,
    RunConfig,
    TrainConfig,
    build,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.data.loader import check_files
from fastrnn.fusion.inference.predictor import Predictor
from tests.fusion.conftest import write_csv, write_jsonl
from tests.fusion.data.loaded import loaded

CELL, FILE, EMPTY = 4, 9, 14  # the numbers of the damaged rows, from 0
INDEX = [f"r{number}" for number in range(20)]


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pd.DataFrame(rows, INDEX).to_parquet(path)
    return path


# format -> how to write rows, and the position of the row with a number
FORMATS: dict[str, tuple[Callable[[Path, list[dict[str, Any]]], Any], str, int]] = {
    "csv": (lambda folder, rows: write_csv(folder / "a.csv", rows), "line", 2),
    "jsonl": (lambda folder, rows: write_jsonl(folder / "a.jsonl", rows), "line", 1),
    "parquet": (lambda folder, rows: parquet(folder / "a.parquet", rows), "row", 0),
    "frame": (lambda folder, rows: pd.DataFrame(rows, range(100, 120)), "row", 100),
    "named frame": (lambda folder, rows: pd.DataFrame(rows, INDEX), "row r", 0),
    "arrow": (lambda folder, rows: pa.Table.from_pylist(rows), "row", 0),
}


def predictor(processor: Processor, on_bad_row: str) -> Predictor:
    """Return a predictor with an untrained network for images and texts."""
    model = ModelConfig(
        processor.modalities,
        width=8,
        hidden=8,
        conv=(4,),
        grid=2,
        image_size=8,
        mels=12,
        vocabulary=processor.vocabulary,
    )
    columns = {name: name for name in processor.modalities}
    config = RunConfig(model, TrainConfig(), columns=columns)
    return Predictor(build(model), processor, config, on_bad_row=on_bad_row)


@pytest.fixture
def processor(rows, save) -> Processor:
    rows = [{key: row[key] for key in ("image", "text", "label")} for row in rows]
    return loaded(save(rows))[0]


@pytest.fixture
def damaged(rows, tmp_path) -> list[dict[str, Any]]:
    """Rows of images and texts, three of which are damaged in different ways."""
    rows = [{key: row[key] for key in ("image", "text", "label")} for row in rows]
    rows[CELL]["image"] = "../4.png"
    (tmp_path / rows[FILE]["image"]).write_bytes(b"")
    rows[EMPTY] |= {"image": "", "text": ""}
    return rows


@pytest.mark.parametrize("form", FORMATS)
def test_fit_and_predict_name_a_row_equally(damaged, processor, tmp_path, form):
    write, word, first = FORMATS[form]
    source = write(tmp_path, damaged)
    name = {number: f"{word} {first + number}" for number in (CELL, FILE, EMPTY)}
    if form == "named frame":
        name = {number: f"row r{number}" for number in name}
    manifest = read_manifest(source, root=tmp_path, on_bad_row="skip")
    dataset = check_files(load_dataset(manifest, processor), "skip")
    fitted = dict(manifest.skipped + dataset.skipped)
    assert sorted(fitted) == sorted(name.values())
    skipping = predictor(processor, "skip")
    (records,) = skipping.predict(source, root=tmp_path)
    assert [record["row"] for record in records] == list(range(20))
    errors = {record["row"]: record["error"] for record in records if "error" in record}
    assert errors == {number: fitted[where] for number, where in name.items()}
    for number, where in name.items():
        assert re.match(rf".*, {where}\b", errors[number])
    blocks = [each for block in skipping.predict(source, root=tmp_path, block=3) for each in block]
    assert {each["row"]: each["error"] for each in blocks if "error" in each} == errors


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("number", [CELL, FILE, EMPTY])
def test_the_first_error_is_the_same(damaged, processor, tmp_path, form, number):
    write, _, _ = FORMATS[form]
    sound = {"image": "0.png", "text": "a", "label": "no"}
    rows = [row if n not in (CELL, FILE, EMPTY) or n == number else sound
            for n, row in enumerate(damaged)]  # fmt: skip
    source = write(tmp_path, rows)
    with pytest.raises(DataError) as fitted:
        check_files(load_dataset(read_manifest(source, root=tmp_path), processor))
    with pytest.raises(DataError) as predicted:
        list(predictor(processor, "error").predict(source, root=tmp_path, block=6))
    assert str(predicted.value) == str(fitted.value)


@pytest.mark.parametrize(("ending", "damage"), [("csv", "0.png,a,b,no"), ("jsonl", "{oops")])
def test_damaged_lines(damaged, processor, tmp_path, ending, damage):
    write, _, first = FORMATS[ending]
    source = write(tmp_path, [damaged[n] for n in range(20) if n not in (CELL, FILE, EMPTY)])
    lines = source.read_text().splitlines()
    lines[8] = damage
    source.write_text("\n".join([*lines[:5], "", *lines[5:]]))  # empty lines are not rows
    manifest = read_manifest(source, on_bad_row="skip")
    ((where, error),) = manifest.skipped
    assert where == "line 10"
    (records,) = predictor(processor, "skip").predict(source)
    assert len(records) == len(manifest) + 1
    row = 10 - first - 1  # one empty line before it
    assert [each["row"] for each in records if "error" in each] == [row]
    assert records[row]["error"] == error


def test_cells_of_several_lines(rows, processor, tmp_path):
    """A row is named by its last line."""
    rows = [{"image": row["image"], "text": "a\nb", "label": row["label"]} for row in rows]
    rows[4]["image"] = "../4.png"
    source = write_csv(tmp_path / "a.csv", rows)
    ((where, error),) = read_manifest(source, on_bad_row="skip").skipped
    assert where == "line 11"
    (records,) = predictor(processor, "skip").predict(source)
    assert records[4] == {"row": 4, "error": error}


@pytest.mark.parametrize("index", [[0] * 20, [1, "1", *range(2, 20)]], ids=["equal", "alike"])
def test_index_labels_that_are_not_unique(damaged, processor, tmp_path, index):
    frame = pd.DataFrame(damaged, index)
    listed = read_manifest(frame, root=tmp_path, on_bad_row="skip").skipped
    assert [where for where, _ in listed] == [f"row {CELL}", f"row {EMPTY}"]
    (records,) = predictor(processor, "skip").predict(frame, root=tmp_path)
    bad = {record["row"]: record["error"] for record in records if "error" in record}
    assert set(bad) == {CELL, FILE, EMPTY}
    assert "'../4.png'" in bad[CELL]
    assert "9.png" in bad[FILE]
    assert "all inputs are empty" in bad[EMPTY]
    assert json.dumps(records)
