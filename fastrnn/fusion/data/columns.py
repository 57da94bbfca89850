"""The rows of a manifest as an Arrow table.

The columns of an input have its name, image or image:front. Cells are null if there is no value.

| column | type | |
|---|---|---|
| where | string | position in the table that was read, for messages |
| image | list<string> | the images |
| audio, text | string | |
| tabular:NAME | string | a number, a category or a date |
| series_file, series_file:NAME | string | the file of a series |
| series | list<double> | the values of a series in a cell, row by row |
| series_width, series_width:NAME | int32 | the number of its variables |
| group | string | |
| label | string, or list<string> | by problem type; "" if labels were not read |
| split | string | null without a split column |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..config.inputs import inputs_of, modality_of, of_modality
from ..errors import FusionError, ManifestError
from ..strings import plural
from ..tasks import Label, infer_problem_type, task_of
from .bad_rows import BadRows
from .records import Record
from .rows import Row, RowReader, Value

_TYPES = {
    "image": pa.list_(pa.string()),
    "audio": pa.string(),
    "tabular": pa.string(),
    "text": pa.string(),
    "series": pa.list_(pa.float64()),
}
_CHUNK = 4096  # rows that are Python values at the same time
# A small Parquet file may repeat one long cell a million times. A chunk has up to 2 GiB of strings.
_LARGEST = (2 << 30) - 1  # bytes of all cells
_PART = 1 << 28  # characters and bytes of rows that are Python values at the same time


def schema(inputs: Iterable[str]) -> pa.Schema:
    """Return the schema of the rows with these inputs and tabular columns, without labels."""
    columns = [("where", pa.string())]
    for name in inputs:
        columns.append((name, _TYPES[modality_of(name)]))
        if modality_of(name) == "series":
            columns += [(file_column(name), pa.string()), (_width_column(name), pa.int32())]
    return pa.schema([*columns, ("split", pa.string()), ("group", pa.string())])


def file_column(name: str) -> str:
    """Return the column with the files of an image, audio or a series."""
    return name.replace("series", "series_file", 1) if modality_of(name) == "series" else name


def _width_column(name: str) -> str:
    return name.replace("series", "series_width", 1)


class ManifestBuilder:
    """Collects checked rows in Arrow columns. Their labels wait for the problem type."""

    def __init__(self, reader: RowReader, bad: BadRows) -> None:
        self.reader = reader
        self._media = [name for name in reader.inputs if name != "tabular"]
        self._schema = schema([*self._media, *reader.tabular])
        self.numbers: list[int] = []  # of the rows among the records, from 0
        self._bad = bad
        self._rows: list[Row] = []
        self._batches: list[pa.RecordBatch] = []
        self._labels: list[Label] = []
        self._listed: list[bool] = []  # whether the images of each row are a list
        self._known: dict[Label, Label] = {}  # equal labels share one object
        self._bytes = 0
        self._waiting = 0  # bytes in _rows

    def __len__(self) -> int:
        return len(self._labels)

    def extend(self, records: Iterable[tuple[str, Record | ManifestError]]) -> None:
        """Check and add the rows of a table.

        Raises:
            ManifestError: a row cannot be used, or the cells take too much memory.
        """
        for number, (where, record) in enumerate(records):
            with self._bad.row(where):
                if isinstance(record, ManifestError):
                    raise record
                row = self.reader.read(where, record)
                self._rows.append(row)
                self._waiting += _size(row)
                self._labels.append(self._known.setdefault(row.label, row.label))
                self._listed.append(row.stream)
                self.numbers.append(number)
            if len(self._rows) == _CHUNK or self._waiting > _PART:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns: dict[str, list[Any]] = {
            name: [getattr(row, name) for row in self._rows] for name in ("where", "split", "group")
        }
        empty = (None,) * len(self.reader.tabular)
        cells = [row.inputs.get("tabular", empty) for row in self._rows]
        for name, column in zip(self.reader.tabular, zip(*cells, strict=True), strict=True):
            columns[name] = list(column)
        for name in self._media:
            values: list[Any] = [row.inputs.get(name) for row in self._rows]
            if modality_of(name) == "series":
                inline = [each if isinstance(each, np.ndarray) else None for each in values]
                files = [each if isinstance(each, str) else None for each in values]
                columns[file_column(name)] = files
                widths = [None if each is None else each.shape[1] for each in inline]
                columns[_width_column(name)] = widths
                values = [None if each is None else each.ravel() for each in inline]
            columns[name] = values
        batch = pa.RecordBatch.from_pydict(columns, self._schema)
        self._bytes += batch.nbytes
        if self._bytes > _LARGEST:
            raise ManifestError(
                f"{self.reader.path}: the cells take more than {_LARGEST:,} bytes; split the "
                "table, or store media in files and their paths in the table"
            )
        self._batches.append(batch)
        self._rows, self._waiting = [], 0

    def finish(self, problem_type: str | None) -> tuple[pa.Table, str, bool]:
        """Parse the labels; return the table, the problem type, and whether rows are streams.

        Raises:
            ManifestError: a label does not fit the problem type, or only some rows are streams.
        """
        table = pa.Table.from_batches(self._batches, self._schema).combine_chunks()
        labelled = "label" in self.reader.roles
        if problem_type is None:
            problem_type = infer_problem_type(self._labels if labelled else [])
        count = _images(table)
        listed = np.array(self._listed, bool)
        first = int((count > 0).argmax()) if (count > 0).any() else None
        stream = problem_type == "steps" or (first is not None and bool(listed[first]))
        keep, labels = [], []
        for row, label in enumerate(self._labels):
            where = table["where"][row]
            with self._bad.row(str(where)):
                if first is not None and count[row] and listed[row] != listed[first]:
                    raise ManifestError(
                        f"{self.reader.path}, {where}: this row and {table['where'][first]} mix a "
                        "single image and a list of images; write a list in every row, even for "
                        "one image"
                    )
                labels.append(self._parsed(str(where), label, problem_type, int(count[row])))
                keep.append(row)
        if len(keep) < len(self._labels):
            table = table.take(pa.array(keep, pa.int64())).combine_chunks()
            self.numbers = [self.numbers[row] for row in keep]
        many = problem_type in ("steps", "multilabel") and labelled
        kind = pa.list_(pa.string()) if many else pa.string()
        return table.append_column("label", pa.array(labels, kind)), problem_type, stream

    def _parsed(self, where: str, label: Label, problem_type: str, images: int) -> Label:
        if "label" not in self.reader.roles:
            return ""
        task = task_of(problem_type)
        try:
            label = task.parse(label)
            if task.per_step and images > 1 and len(label) != images:
                raise FusionError(
                    f"{plural(len(label), 'label')} for {plural(images, 'image')}; give one per "
                    "step, or null"
                )
        except FusionError as error:
            raise ManifestError(
                f"{self.reader.path}, {where}, column {self.reader.roles['label']!r}: {error} "
                f"(the problem type is {problem_type})"
            ) from None
        return label


def _size(row: Row) -> int:
    """Estimate the bytes of a row's longest cells."""
    size = 0
    for value in row.inputs.values():
        cells = value if isinstance(value, tuple) else (value,)
        size += sum(getattr(each, "nbytes", len(each)) for each in cells if each is not None)
    return size


class Rows(Sequence[Row]):
    """The rows of a manifest's table, as Row objects made on demand."""

    def __init__(self, table: pa.Table, stream: bool, per_step: bool) -> None:
        self._table = table
        self._stream = stream
        self._per_step = per_step  # labels are lists with one entry per step
        self._columns = {
            name: (table[name].chunk(0) if table.num_rows else pa.array([]))
            for name in table.column_names
        }

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        cells = {
            name: self._columns[name][index].as_py()
            for name in ("where", "label", "split", "group")
        }
        label = cells["label"]
        inputs = {name: self._value(name, index) for name in self.inputs}
        return Row(
            where=cells["where"],
            inputs={name: value for name, value in inputs.items() if value is not None},
            label=label if isinstance(label, str) else tuple(label),
            split=cells["split"],
            stream=self._stream,
            group=cells["group"],
        )

    def column(self, name: str) -> pa.Array:
        """Return a column as one Arrow array."""
        return self._columns[name]

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs."""
        return list(inputs_of(self._columns))

    def of(self, modality: str) -> list[str]:
        """Return the names of the inputs of a modality."""
        return of_modality(self._columns, modality)

    def _value(self, name: str, row: int) -> Value | None:
        if name == "tabular":
            cells = tuple(self._columns[each][row].as_py() for each in self.of(name))
            return None if all(cell is None for cell in cells) else cells
        if modality_of(name) == "series":
            file = self._columns[file_column(name)][row].as_py()
            return self.values(name, row) if file is None else file
        cell = self._columns[name][row].as_py()
        return tuple(cell) if isinstance(cell, list) else cell

    def values(self, name: str, row: int) -> np.ndarray | None:
        """Return the series in a row's cell, float64 [L, K], or None."""
        cell = self._columns[name][row]
        if not cell.is_valid:
            return None
        values = cell.values.to_numpy(zero_copy_only=False)
        return values.reshape(-1, self._columns[_width_column(name)][row].as_py())

    def lacking(self, name: str) -> np.ndarray:
        """Whether each row lacks an input, bool [N]."""
        names = set(self.of(name)) if name == "tabular" else {name, file_column(name)}
        found = [pc.is_null(self._columns[each]).to_numpy(zero_copy_only=False) for each in names]
        return np.logical_and.reduce(found).astype(bool)

    def steps(self) -> np.ndarray:
        """The number of steps of each row, int64 [N]; 1 if rows are not streams.

        A row with at most one image has as many steps as labels.
        """
        if not self._stream:
            return np.ones(len(self), np.int64)
        images = _images(self._table)
        if self._per_step:
            images = np.where(images > 1, images, _counts(self._columns["label"]))
        return np.maximum(1, images)


def _images(table: pa.Table) -> np.ndarray:
    """The number of images in each row of a column of images, int64 [N]; 0 if it has none."""
    counts = np.zeros(table.num_rows, np.int64)
    for name in of_modality(table.column_names, "image"):
        counts = np.maximum(counts, _counts(table[name]))
    return counts


def _counts(lists: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The length of each list, int64 [N]; 0 for null."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
