"""Test the Arrow table of a manifest: its rows, its columns and its limits."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from fastrnn.fusion import Processor, load_dataset, read_manifest
from tests.fusion.data.loaded import CONFIG, same
from tests.fusion.data.test_manifest import expect_error

LIMITS = "fastrnn.fusion.data.columns"


@pytest.mark.parametrize("chunk", [1, 3, 20, 100])
def test_rows_do_not_depend_on_the_chunks(full, save, chunk, monkeypatch):
    full[4]["image"], full[5]["text"], full[6]["series"] = None, None, None
    expected = read_manifest(save(full))
    monkeypatch.setattr(f"{LIMITS}._CHUNK", chunk)
    manifest = read_manifest(save(full))
    assert manifest.table.equals(expected.table)
    assert list(manifest.rows) == list(expected.rows)
    processor = Processor.fit(manifest, range(20), CONFIG)
    same(load_dataset(manifest, processor), load_dataset(expected, processor))


def test_rows_are_a_sequence(full, save):
    rows = read_manifest(save(full)).rows
    assert len(rows) == 20
    assert rows[-1] == rows[19]
    assert [row.where for row in rows] == [f"line {number}" for number in range(1, 21)]
    for number in (20, -21):
        with pytest.raises(IndexError):
            rows[number]


def test_selected_rows(full, save):
    full[9]["image"] = None
    manifest = read_manifest(save(full))
    chosen = manifest.select([9, 3, 0])
    assert (len(chosen), chosen.missing) == (3, ("image",))
    assert list(chosen.rows) == [manifest.rows[9], manifest.rows[3], manifest.rows[0]]
    assert (chosen.rows.values("series", 1) == manifest.rows.values("series", 3)).all()
    assert chosen.where(1) == "line 4"
    assert chosen.labels([1]) == manifest.labels([3]) == ["yes"]
    empty = manifest.select([])
    assert (len(empty), list(empty.rows), empty.labels()) == (0, [], [])


def test_series_of_different_widths(save):
    cells = [[1, 2, 3], [[1, 2], [3, 4]], None, [[5, 6, 7]], "a.npy"]
    rows = [{"text": "a", "series": cell, "label": "x"} for cell in cells]
    manifest = read_manifest(save(rows))
    for number in (0, 1, 3):
        expected = np.array(cells[number], float).reshape(len(cells[number]), -1)
        assert np.array_equal(manifest.rows.values("series", number), expected)
        assert np.array_equal(manifest.rows[number].series, expected)
    assert manifest.rows.values("series", 2) is manifest.rows.values("series", 4) is None
    assert manifest.rows[4].series == "a.npy"
    assert manifest.rows.lacking("series").tolist() == [False, False, True, False, False]


def test_the_cells_of_a_table_are_limited(rows, save, monkeypatch):
    monkeypatch.setattr(f"{LIMITS}._LARGEST", 100_000)
    few = [{"text": "a" * 1000, "label": row["label"]} for row in rows]
    assert len(read_manifest(save(few))) == 20
    expect_error(save(few * 10), "the cells take more than 100,000 bytes; split the table")
    long = [{"series": [0.5] * 1000, "label": row["label"]} for row in rows]
    expect_error(save(long), "the cells take more than 100,000 bytes")


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param("a" * 10_000, id="text"),
        pytest.param(np.zeros(1250), id="series", marks=pytest.mark.exhaustive),
    ],
)
def test_long_cells_are_not_collected_before_they_are_counted(cell, tmp_path, monkeypatch):
    """A small Parquet file repeats one cell; its rows would take 50 MB."""
    monkeypatch.setattr(f"{LIMITS}._LARGEST", 1_000_000)
    monkeypatch.setattr(f"{LIMITS}._PART", 500_000)
    name = "text" if isinstance(cell, str) else "series"
    frame = pd.DataFrame({name: [cell] * 5000, "label": ["a", "b"] * 2500})
    frame.to_parquet(tmp_path / "a.parquet")
    tracemalloc.start()
    try:
        expect_error(tmp_path / "a.parquet", "the cells take more than 1,000,000 bytes")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25_000_000  # 256 rows are Python values at the same time
