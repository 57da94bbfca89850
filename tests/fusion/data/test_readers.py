"""Test Parquet files and DataFrames: same results and same errors as for CSV."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastrnn.fusion import ManifestError, MediaError, read_manifest
from tests.fusion.data.loaded import loaded
from tests.fusion.data.test_manifest import expect_error


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, index=[f"r{number}" for number in range(len(rows))])


def test_parquet_and_frame_give_the_same_rows_as_csv(rows, save, tmp_path):
    rows[4]["image"], rows[5]["text"] = None, None
    from_csv = read_manifest(save(rows, "csv"))
    frame(rows).to_parquet(tmp_path / "a.parquet")
    from_parquet = read_manifest(tmp_path / "a.parquet")
    from_frame = read_manifest(frame(rows), root=tmp_path)
    for other, first in ((from_parquet, "row 0"), (from_frame, "row r0")):
        assert other.rows[0].where == first
        alike = [replace(row, where="") for row in other.rows]
        assert alike == [replace(row, where="") for row in from_csv.rows]
        assert (other.problem_type, other.missing) == ("binary", ("image", "text"))
        assert other.root == tmp_path.resolve()


def test_paths_of_a_frame_are_relative_to_the_current_folder(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest(frame(rows))
    assert manifest.root == tmp_path.resolve()
    assert manifest.rows[3].images == ("3.png",)
    _, dataset = loaded(frame(rows))
    assert len(dataset.batch([0, 1])["image_frames"]) == 2
    monkeypatch.chdir(tmp_path.parent)
    _, dataset = loaded(frame(rows))
    with pytest.raises(MediaError, match=r"DataFrame, row r0: there is no file '0\.wav' in"):
        dataset[0]


@pytest.mark.parametrize("ending", ["parquet", "frame"])
def test_streams_in_parquet_and_frames(streams, save, tmp_path, ending):
    source: Any = tmp_path / "a.parquet"
    if ending == "parquet":
        frame(streams).to_parquet(source)
    else:
        source = frame(streams)
    manifest = read_manifest(source, root=tmp_path)
    expected = read_manifest(save(streams))
    assert manifest.problem_type == "steps"
    assert manifest.stream
    assert [row.label for row in manifest.rows] == [row.label for row in expected.rows]
    assert [row.images for row in manifest.rows] == [row.images for row in expected.rows]


@pytest.mark.parametrize(
    "empty", [None, np.nan, pd.NA, pd.NaT, np.float32("nan"), ""], ids=lambda value: repr(value)
)
def test_empty_cells_of_a_frame(rows, tmp_path, empty):
    table = frame(rows).astype(object)
    table.iloc[4, 0] = empty
    assert read_manifest(table, root=tmp_path).missing == ("image",)
    table.iloc[4, 3] = empty
    with pytest.raises(ManifestError, match="row r4, column 'label': the cell is empty"):
        read_manifest(table, root=tmp_path)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.arange(20) % 2, {"0", "1"}),
        (np.arange(20) % 2 == 0, {"true", "false"}),
        (pd.Categorical(["no", "yes"] * 10), {"no", "yes"}),
        (pd.array([0, 1] * 10, dtype="Int64"), {"0", "1"}),
    ],
)
def test_label_types_of_a_frame(rows, tmp_path, values, names):
    table = frame(rows).assign(label=values)
    table.to_parquet(tmp_path / "a.parquet")
    for source in (table, tmp_path / "a.parquet"):
        manifest = read_manifest(source, root=tmp_path)
        assert set(manifest.labels()) == names


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", b"0.png", {"bytes": b"x"}, 7])
def test_cells_of_a_frame_that_are_not_valid_paths(rows, tmp_path, path):
    table = frame(rows).astype(object)
    table["image"] = [path if number == 2 else row["image"] for number, row in enumerate(rows)]
    with pytest.raises(ManifestError, match="row r2, column 'image'"):
        read_manifest(table, root=tmp_path)


def test_invalid_frames(rows, tmp_path):
    table = frame(rows)
    with pytest.raises(ManifestError, match="'text' appears twice"):
        read_manifest(pd.concat([table, table["text"]], axis=1), root=tmp_path)
    with pytest.raises(ManifestError, match="no rows"):
        read_manifest(table.iloc[:0], root=tmp_path)


def test_damaged_parquet(tmp_path, rows):
    frame(rows).to_parquet(tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    for damaged in (b"", b"PAR1", data[: len(data) // 2], data[:-8] + bytes(8)):
        (tmp_path / "a.parquet").write_bytes(damaged)
        expect_error(tmp_path / "a.parquet", "the Parquet file cannot be read", "write it again")
    dice = np.random.default_rng(0)
    refusals = 0
    for _ in range(100):
        noise = bytearray(data)
        for place in dice.integers(4, len(data) - 8, 5):
            noise[place] = dice.integers(256)
        (tmp_path / "a.parquet").write_bytes(noise)
        try:
            read_manifest(tmp_path / "a.parquet")  # the changed bytes may not matter
        except ManifestError:
            refusals += 1
    assert refusals > 30


def test_parquet_bytes_are_not_read(rows, tmp_path):
    table = frame(rows).assign(pixels=b"x" * 100)
    table.to_parquet(tmp_path / "a.parquet")
    assert read_manifest(tmp_path / "a.parquet").ignored == ("pixels", "__index_level_0__")
    expect_error(tmp_path / "a.parquet", "row 0, column 'pixels'", "is not a path", image="pixels")


def test_a_parquet_file_that_expands_too_much(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("fastrnn.fusion.data.columns._LARGEST", 100_000)
    table = frame(rows * 50).assign(text="a" * 1000, index=range(1000))
    table.to_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    expect_error(tmp_path / "a.parquet", "the cells take more than")
