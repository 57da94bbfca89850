"""Read tables as records: CSV, JSONL, Parquet files and shards, DataFrames, Arrow tables, datasets.

A record is a dict of a row's cells as plain Python values, paired with its position for messages:
the line of a text file, otherwise the row's number from 0 or its label in a DataFrame's index, if
the labels are unique. A damaged row (a ragged line, invalid JSON) is an error in place of the
record, so that the caller can skip it. A table that is damaged as a whole raises. Records are read
one at a time, so a table may be larger than the memory.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FusionError, ManifestError
from ..strings import composed, is_unicode, plural, separator
from .records import Record, Records, names_of
from .shards import shards_of
from .storage import as_path, opened
from .webdataset import open_shards

Source: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | pa.Table | Any"

_LARGEST_CELL = 1 << 24  # characters of a CSV cell, which may hold a numeric series
_LARGEST_LINE = 1 << 26  # characters of a JSONL line
_BATCH = 256  # rows of Parquet or Arrow that become Python values at once


@dataclass(frozen=True)
class Table:
    """A table that can be read several times.

    Attributes:
        path: for messages; "DataFrame", "Table" or "Dataset" if there is no file.
        names: the names of the columns.
        records: starts to read, and yields (position, cells) for each row.
        unread: the columns of types that cannot have a role; records omit them.
    """

    path: Path
    names: tuple[str, ...]
    records: Callable[[], Records]
    unread: frozenset[str] = frozenset()


def open_table(source: Source, wanted: Collection[str] = ()) -> Table:
    """Open a table. The extension of a file gives its format.

    Args:
        source: a path, a DataFrame, a pyarrow.Table or a datasets.Dataset.
        wanted: Parquet columns to read regardless of their type. Other binary, map and struct
            columns cannot have a role; they are named but not read.

    Raises:
        ManifestError: no such file, another format, not UTF-8, empty, two columns of one name, or
            damaged. Reading the records raises it, too.
    """
    table = _open(source, wanted)
    if not table.names:
        raise ManifestError(f"{table.path}: the table has no rows; add one row per example")
    for name in (*table.names, str(table.path)):
        if not is_unicode(name):
            where = str(table.path)
            raise ManifestError(f"{where!r}: the name {name!r} is not valid Unicode; rename it")
    return table


def _open(source: Source, wanted: Collection[str]) -> Table:
    if isinstance(source, pd.DataFrame):
        return _frame(source)
    if isinstance(source, pa.Table):
        return _arrow(Path("Table"), source.schema, lambda: source.to_batches(_BATCH), wanted)
    if hasattr(source, "with_format") and getattr(source, "features", None) is not None:
        return _dataset(source, wanted)
    if not isinstance(source, (str, os.PathLike)):
        raise ManifestError(
            f"a {type(source).__name__} is not a table; give a path, a DataFrame, a pyarrow.Table "
            "or a datasets.Dataset"
        )
    path = as_path(source)
    if shards := shards_of(path):
        return Table(path, *open_shards(path, shards))
    if not path.is_file():
        raise ManifestError(
            f"{path}: no such file; give the path of a CSV, JSONL, Parquet or .tar file"
        )
    openers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise ManifestError(
            f"{path}: a manifest must end in .csv, .jsonl, .parquet or .tar; convert it"
        )
    try:
        return opener(path, wanted)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def is_stored(path: Path) -> bool:
    """Whether a table can be read from its path again; a DataFrame, for example, cannot."""
    return bool(shards_of(path)) or path.is_file()


def _not_utf8(path: Path, error: UnicodeDecodeError) -> ManifestError:
    return ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8")


def column_names(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Return the normalised names of a table's columns.

    Raises:
        ManifestError: two names are the same.
    """
    names = tuple(composed(name.strip()) for name in names)
    for name, times in Counter(names).items():
        if times > 1:
            raise ManifestError(f"{path}: the column {name!r} appears twice; rename one of them")
    return names


def _csv(path: Path, wanted: Collection[str]) -> Table:
    with _CsvRows(path) as rows:
        names = _header(path, next(iter(rows), []))

    def records() -> Records:
        with _CsvRows(path) as rows:
            next(iter(rows), None)
            for cells in rows:
                where = f"line {rows.line}"
                if len(cells) == len(names):
                    yield where, dict(zip(names, cells, strict=True))
                elif cells:
                    yield (
                        where,
                        ManifestError(
                            f"{path}, {where}: {plural(len(cells), 'cell')} but "
                            f"{plural(len(names), 'column')}; put quotes around cells that contain "
                            "a comma"
                        ),
                    )

    return Table(path, names, records)


class _CsvRows:
    """Iterate over the lines of a CSV file as lists of cells."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _CsvRows:
        self._limit = csv.field_size_limit(_LARGEST_CELL)
        self._file = self._path.open(newline="", encoding="utf-8-sig")
        self._reader = csv.reader(self._file, strict=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        csv.field_size_limit(self._limit)

    @property
    def line(self) -> int:
        """The number of the last line that was read, from 1."""
        return self._reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        try:
            yield from self._reader
        except csv.Error as error:
            raise ManifestError(f"{self._path}, line {self.line}: not CSV ({error})") from None
        except UnicodeDecodeError as error:
            raise _not_utf8(self._path, error) from None


def _header(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    other = separator(",".join(cells))
    if other:
        raise ManifestError(f"{path}: cells are separated by {other}; save the file with commas")
    return column_names(path, cells)


def _jsonl(path: Path, wanted: Collection[str]) -> Table:
    """A row may omit columns, so the names are those of all rows."""

    def records() -> Records:
        try:
            yield from _lines(path)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from None

    return Table(path, names_of(records()), records)


def _lines(path: Path) -> Records:
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        while line := file.readline(_LARGEST_LINE):
            number += 1
            where = f"line {number}"
            if len(line) == _LARGEST_LINE:
                raise ManifestError(
                    f"{path}, {where}: the line has over {_LARGEST_LINE:,} characters; split it"
                )
            if line.strip():
                yield where, _parsed(line, f"{path}, {where}")


def _parsed(line: str, where: str) -> Record | ManifestError:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ManifestError(f"{where}: not JSON ({error}); write one JSON object per line")
    if not isinstance(record, dict):
        return ManifestError(
            f'{where}: not a JSON object; write {{"image": "1.png", "label": "yes"}}'
        )
    for name in record:
        if not is_unicode(name):
            return ManifestError(f"{where}: the name {name!r} is not valid Unicode; rename it")
    return {composed(name): cell for name, cell in record.items()}


def _parquet(path: Path, wanted: Collection[str]) -> Table:
    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(opened(path)) as file:
            yield from file.iter_batches(batch_size=_BATCH, columns=columns)

    try:
        schema = pq.read_schema(opened(path))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    columns = _readable(path, schema, wanted)
    return _arrow(path, schema, batches, wanted)


def _damaged(path: Path, error: Exception) -> FusionError:
    if isinstance(error, FusionError):
        return error
    kind, remedy = ("Parquet file", "write it again") if path.suffix else ("table", "fix it")
    return ManifestError(f"{path}: the {kind} cannot be read ({error}); {remedy}")


def _dataset(source: Any, wanted: Collection[str]) -> Table:
    """Read a datasets.Dataset through Arrow, without decoding its media columns."""
    schema = source.features.arrow_schema
    columns = _readable(Path("Dataset"), schema, wanted)
    arrow = source.select_columns(columns).with_format("arrow")

    def batches() -> Iterator[pa.RecordBatch]:
        for table in arrow.iter(_BATCH):
            yield from table.to_batches()

    return _arrow(Path("Dataset"), schema, batches, wanted)


def _arrow(
    path: Path,
    schema: pa.Schema,
    batches: Callable[[], Iterable[pa.RecordBatch]],
    wanted: Collection[str],
) -> Table:
    columns = _readable(path, schema, wanted)

    def records() -> Records:
        number = 0
        try:
            for batch in batches():
                for record in batch.select(columns).to_pylist():
                    yield f"row {number}", _cells(record)
                    number += 1
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _damaged(path, error) from None

    names = column_names(path, schema.names)
    return Table(path, names, records, frozenset(names) - set(column_names(path, columns)))


def _readable(path: Path, schema: pa.Schema, wanted: Collection[str]) -> list[str]:
    """Return the columns that are wanted, or can have a role."""
    names = column_names(path, schema.names)
    pairs = zip(schema, names, strict=True)
    return [each.name for each, name in pairs if name in wanted or _plain(each.type)]


def _plain(kind: pa.DataType) -> bool:
    """Whether cells of this type can have a role: scalars except bytes, and lists of these."""
    types = pa.types
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    return not (
        types.is_nested(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    )


def _frame(frame: pd.DataFrame) -> Table:
    path = Path("DataFrame")
    names = column_names(path, (str(name) for name in frame.columns))
    index = frame.index
    if index.dtype == object:
        index = pd.Index([str(label) for label in index])
    labels = index if index.is_unique else range(len(frame))  # each row has its own name

    def records() -> Records:
        columns = [frame.iloc[:, place] for place in range(len(names))]
        for label, *row in zip(labels, *columns, strict=True):
            yield f"row {label}", {n: _value(cell) for n, cell in zip(names, row, strict=True)}

    return Table(path, names, records)


def _cells(record: Record) -> Record:
    return {composed(name.strip()): _value(cell) for name, cell in record.items()}


def _value(cell: Any) -> Any:
    """Convert a cell to a plain Python value; missing values of pandas and numpy become None."""
    if isinstance(cell, np.ndarray):
        # Numeric arrays stay arrays, since a series may be long. Others become lists of cells.
        return cell if cell.dtype.kind in "iuf" else [_value(each) for each in cell.tolist()]
    if isinstance(cell, (list, tuple)):
        return [_value(each) for each in cell]
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, os.PathLike):
        return os.fspath(cell)
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return None
    return None if isinstance(cell, float) and math.isnan(cell) else cell
