"""Read tables as records: CSV, JSONL and Parquet files, and pandas DataFrames.

A record is a dict of a row's cells as plain Python values, paired with its position for messages. A
damaged row (a ragged line, invalid JSON) is an error object in place of the record, so that the
caller can skip it. A table that is damaged as a whole raises.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ManifestError
from ..strings import composed, is_unicode, plural, separator

Record = dict[str, Any]
Source: TypeAlias = "str | os.PathLike[str] | pd.DataFrame"

_LARGEST_CELL = 1 << 24  # characters of a CSV cell, which may hold a numeric series
_LARGEST_TABLE = 4 << 30  # bytes; a small Parquet file may repeat one long cell a million times
_PARQUET_ROWS = 256  # rows read between two checks of the limit


@dataclass(frozen=True)
class Table:
    """A table. `path` is for messages; it is "DataFrame" if there is no file."""

    path: Path
    names: tuple[str, ...]  # column names
    records: list[tuple[str, Record | ManifestError]]  # (position, cells)


def read_table(source: Source, wanted: Collection[str] = ()) -> Table:
    """Read a table. The extension of a file gives its format.

    Args:
        wanted: Parquet columns to read regardless of their type. Other binary, map and struct
            columns cannot have a role; they are named but not read.

    Raises:
        ManifestError: no such file, another format, not UTF-8, no rows, or damaged.
    """
    if isinstance(source, pd.DataFrame):
        path = Path(source.attrs.get("path", "DataFrame"))  # a block of a file has its path
        table = Table(path, *_frame(path, source))
    else:
        path = Path(source)
        if not path.is_file():
            raise ManifestError(
                f"{path}: no such file; give the path of a CSV, JSONL or Parquet file"
            )
        ending = path.suffix.lower()
        try:
            if ending == ".csv":
                table = Table(path, *_csv(path))
            elif ending == ".jsonl":
                table = Table(path, *_jsonl(path))
            elif ending == ".parquet":
                table = Table(path, *_parquet(path, wanted))
            else:
                raise ManifestError(
                    f"{path}: a manifest must end in .csv, .jsonl or .parquet; convert it"
                )
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    for name in (*table.names, str(path)):
        if not is_unicode(name):
            raise ManifestError(f"{str(path)!r}: the name {name!r} is not valid Unicode; rename it")
    if not table.records:
        raise ManifestError(f"{path}: the table has no rows; add one row per example")
    return table


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


def csv_header(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    """Return the column names of a CSV file, from the cells of its first line.

    Raises:
        ManifestError: two names are the same, or the cells are not separated by commas.
    """
    other = separator(",".join(cells))
    if other:
        raise ManifestError(f"{path}: cells are separated by {other}; save the file with commas")
    return column_names(path, cells)


Content = tuple[tuple[str, ...], list[tuple[str, Record | ManifestError]]]


def _csv(path: Path) -> Content:
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            try:
                names = csv_header(path, next(reader, []))
                return names, list(_csv_records(path, reader, names))
            except csv.Error as error:
                raise ManifestError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    finally:
        csv.field_size_limit(before)


def _csv_records(
    path: Path, reader: Any, names: tuple[str, ...]
) -> Iterator[tuple[str, Record | ManifestError]]:
    for cells in reader:
        where = f"line {reader.line_num}"
        if not cells:
            continue
        if len(cells) == len(names):
            yield where, dict(zip(names, cells, strict=True))
        else:
            yield (
                where,
                ManifestError(
                    f"{path}, {where}: {plural(len(cells), 'cell')} but "
                    f"{plural(len(names), 'column')}; put quotes around cells that contain a comma"
                ),
            )


def _jsonl(path: Path) -> Content:
    records: list[tuple[str, Record | ManifestError]] = []
    names: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            record: Record | ManifestError
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                record = ManifestError(
                    f"{path}, {where}: not JSON ({error}); write one JSON object per line"
                )
            else:
                if not isinstance(record, dict):
                    record = ManifestError(
                        f"{path}, {where}: not a JSON object; write "
                        '{"image": "1.png", "label": "yes"}'
                    )
            if isinstance(record, dict):
                record = {composed(name): cell for name, cell in record.items()}
                names |= dict.fromkeys(record)
            records.append((where, record))
    return tuple(names), records


def _parquet(path: Path, wanted: Collection[str]) -> Content:
    records: list[tuple[str, Record | ManifestError]] = []
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        names = column_names(path, schema.names)
        columns = [
            each.name
            for each, name in zip(schema, names, strict=True)
            if name in wanted or _plain(each.type)
        ]
        size = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
            size += batch.nbytes
            if size > _LARGEST_TABLE:
                raise ManifestError(
                    f"{path}: the cells take more than {_LARGEST_TABLE >> 30} GiB; split the "
                    "table, or store media in files and their paths in the table"
                )
            for record in batch.to_pylist():
                records.append((f"row {len(records) + 1}", _cells(record)))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(
            f"{path}: the Parquet file cannot be read ({error}); write it again"
        ) from None
    return names, records


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


def _frame(path: Path, frame: pd.DataFrame) -> Content:
    names = column_names(path, (str(name) for name in frame.columns))
    columns = [frame.iloc[:, place].tolist() for place in range(len(names))]
    places = [f"row {label}" for label in frame.index.tolist()]
    rows = zip(*columns, strict=True) if columns else ()
    return names, [
        (where, _cells(dict(zip(names, row, strict=True))))
        for where, row in zip(places, rows, strict=False)
    ]


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
