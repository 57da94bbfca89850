"""Tables that are not files: a pyarrow.Table and a datasets.Dataset give the rows of a CSV file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fastrnn.fusion import ManifestError, MediaError, Processor, load_dataset, read_manifest
from tests.fusion.data.loaded import CONFIG, loaded, same


@dataclass
class ArrowDataset:
    """The part of datasets.Dataset that is read. Its rows exist only in the Arrow format."""

    table: pa.Table
    format: str | None = None

    @property
    def features(self) -> SimpleNamespace:
        return SimpleNamespace(arrow_schema=self.table.schema)

    def select_columns(self, names: list[str]) -> ArrowDataset:
        return replace(self, table=self.table.select(names))

    def with_format(self, name: str) -> ArrowDataset:
        return replace(self, format=name)

    def iter(self, batch_size: int) -> Iterator[pa.Table]:
        assert self.format == "arrow"
        for start in range(0, len(self.table), batch_size):
            yield self.table.slice(start, batch_size)


def real_dataset(table: pa.Table) -> Any:
    return pytest.importorskip("datasets").Dataset(table)


installed = importlib.util.find_spec("datasets") is not None
SOURCES = {
    "table": lambda table: table,
    "dataset": real_dataset if installed else ArrowDataset,
}


def arrow(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows)


@pytest.fixture(params=SOURCES.values(), ids=SOURCES)
def source(request):
    """A function that makes a source of an Arrow table."""
    return request.param


def test_rows_are_those_of_a_file(rows, save, tmp_path, source):
    rows[4]["image"], rows[5]["text"] = None, None
    expected = read_manifest(save(rows, "csv"))
    manifest = read_manifest(source(arrow(rows)), root=tmp_path)
    assert [row.where for row in manifest.rows] == [f"row {number}" for number in range(20)]
    alike = [replace(row, where="") for row in manifest.rows]
    assert alike == [replace(row, where="") for row in expected.rows]
    assert (manifest.problem_type, manifest.missing) == ("binary", ("image", "text"))
    _, from_source = loaded(source(arrow(rows)), root=tmp_path)
    _, from_file = loaded(save(rows, "csv"))
    same(from_source, from_file)


def test_streams(streams, save, tmp_path, source):
    streams[2]["image"] = None
    _, from_source = loaded(source(arrow(streams)), root=tmp_path)
    _, from_file = loaded(save(streams))
    same(from_source, from_file)


def test_tables_of_many_chunks_can_be_read_again(save, source):
    rows = [{"text": f"text {n}", "label": n % 3, "series": [n, n / 2]} for n in range(1000)]
    table = pa.concat_tables([arrow(rows[start : start + 7]) for start in range(0, 1000, 7)])
    made = source(table)
    for _ in range(2):
        manifest = read_manifest(made)
        assert [row.text for row in manifest.rows] == [row["text"] for row in rows]
        assert [int(label) for label in manifest.labels()] == [row["label"] for row in rows]
        assert all((manifest.rows[n].series[:, 0] == [n, n / 2]).all() for n in (0, 500, 999))
        assert manifest.where(999) == "row 999"


def test_columns_that_cannot_have_a_role_are_not_read(rows, tmp_path, source):
    media = pa.array([{"bytes": b"x" * 9, "path": None}] * 20)
    table = arrow(rows).append_column("thumbnail", media)
    table = table.append_column("raw", pa.array([b"x"] * 20))
    manifest = read_manifest(source(table), root=tmp_path)
    assert manifest.ignored == ("thumbnail", "raw")
    with pytest.raises(ManifestError, match=r"(Table|Dataset), row 0, column 'thumbnail'.*a path"):
        read_manifest(source(table), {"image": "thumbnail"}, root=tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["no", "yes"] * 10).dictionary_encode(),
        pa.array(["no", "yes"] * 10, pa.large_string()),
        pa.array([0, 1] * 10, pa.int8()),
        pa.array([0.0, 1.0] * 10, pa.float32()),
        pa.array([False, True] * 10),
    ],
    ids=lambda values: str(values.type),
)
def test_types_of_labels(rows, tmp_path, source, values):
    table = arrow(rows)
    table = table.set_column(table.schema.get_field_index("label"), "label", values)
    _, dataset = loaded(source(table), root=tmp_path)
    assert dataset.labels().tolist() == [0, 1] * 10


def test_types_of_series(rows, source):
    plain = np.arange(120.0).reshape(20, 3, 2)
    lists = [row.tolist() for row in plain]
    kinds = [pa.list_(pa.list_(pa.float32())), pa.large_list(pa.list_(pa.float64(), 2))]
    for kind in kinds:
        label = pa.array([row["label"] for row in rows])
        table = pa.table({"series": pa.array(lists, kind), "label": label})
        manifest = read_manifest(source(table))
        assert all((manifest.rows[n].series == plain[n]).all() for n in range(20))


def test_bad_rows_are_named_by_their_number(rows, tmp_path, source):
    rows[3]["image"], rows[7]["label"] = "../3.png", None
    with pytest.raises(ManifestError, match=r"(Table|Dataset), row 3, column 'image'"):
        read_manifest(source(arrow(rows)), root=tmp_path)
    manifest = read_manifest(source(arrow(rows)), root=tmp_path, on_bad_row="skip")
    assert [where for where, _ in manifest.skipped] == ["row 3", "row 7"]
    assert manifest.where(3) == "row 4"
    (tmp_path / "9.png").write_bytes(b"")
    dataset = load_dataset(manifest, Processor.fit(manifest, range(18), CONFIG))
    with pytest.raises(MediaError, match=r"^(Table|Dataset), row 9: .*9\.png"):
        dataset[7]


def test_empty_tables_and_names(rows, source):
    with pytest.raises(ManifestError, match="the table has no rows"):
        read_manifest(source(arrow(rows).slice(0, 0)))
    table = arrow([{" text ": "a", "label": n} for n in range(3)])
    assert read_manifest(source(table)).columns == {"text": "text", "label": "label"}
    twice = arrow([{"text": "a", " text": "b", "label": 1}])
    with pytest.raises(ManifestError, match="the column 'text' appears twice"):
        read_manifest(source(twice))


@pytest.mark.parametrize("other", [5, None, ["a.csv"], {"train": pd.DataFrame()}, b"a.csv"])
def test_other_sources(other):
    with pytest.raises(ManifestError, match="is not a table; give a path, a DataFrame"):
        read_manifest(other)


def test_a_timestamp_that_python_cannot_hold():
    when = pa.array([1 << 60, 0], pa.timestamp("s"))
    table = pa.table({"when": when, "label": ["a", "b"]})
    with pytest.raises(ManifestError, match=r"^Table: the table cannot be read \(.*\); fix it"):
        read_manifest(table)


def test_the_index_and_the_names_of_a_frame_may_be_of_any_type():
    frame = pd.DataFrame({0: ["a", "b"] * 2, 1: [0.5, 2.5, 0.5, None], 2: [1, 2, 2, 3]})
    frame.index = pd.MultiIndex.from_tuples([("x", 0), ("x", 1), ("y", 0), ("y", 1)])
    manifest = read_manifest(frame, {"label": 0, "tabular": frame.columns[1:]})
    assert manifest.columns == {"label": "0", "tabular:1": "1", "tabular:2": "2"}
    with pytest.raises(ManifestError, match=r"row \('y', 1\)"):
        read_manifest(frame, {"label": 0, "tabular": 1})
