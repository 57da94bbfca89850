"""Read a CSV, JSONL or Parquet table of any size in blocks of rows.

A block is a DataFrame indexed by the row's number in the table, from 0. A row that cannot be
parsed (a ragged line, invalid JSON) becomes an error of that row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ManifestError
from ..strings import composed, is_unicode, plural
from .readers import csv_header

_LARGEST_CELL = 1 << 24  # characters of a CSV cell, which may hold a whole numeric series
_LARGEST_LINE = 1 << 26  # characters of a JSONL line

Cells = dict[str, Any] | ManifestError  # the cells of a row, or why it cannot be read


@dataclass(frozen=True)
class Block:
    """Consecutive rows."""

    frame: pd.DataFrame  # indexed by row number
    damaged: dict[int, ManifestError]  # rows that cannot be read; not in `frame`


def read_blocks(path: Path, size: int) -> Iterator[Block]:
    """Yield the rows of a table in blocks of at most `size`; an empty table yields none.

    Raises:
        ManifestError: the file does not exist, has an unknown format, is not UTF-8, or is damaged
            as a whole.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if not path.is_file():
        raise ManifestError(f"{path}: no such file; give the path of a CSV, JSONL or Parquet file")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path}: a manifest must end in .csv, .jsonl or .parquet; convert it")
    try:
        rows = enumerate(reader(path))
        while some := list(islice(rows, size)):
            yield _block(path, some)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def _block(path: Path, rows: Iterable[tuple[int, Cells]]) -> Block:
    sound, damaged = {}, {}
    for number, cells in rows:
        if isinstance(cells, ManifestError):
            damaged[number] = ManifestError(f"{path}, row {number}: {cells}")
        else:
            sound[number] = cells
    # dtype=object keeps integers as integers in a column with empty cells.
    frame = pd.DataFrame(list(sound.values()), index=list(sound), dtype=object)
    frame.attrs["path"] = str(path)  # used in error messages
    return Block(frame, damaged)


def _csv(path: Path) -> Iterator[Cells]:
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            try:
                names = csv_header(path, next(reader, []))
                for cells in reader:
                    if len(cells) == len(names):
                        yield dict(zip(names, cells, strict=True))
                    elif cells:
                        yield ManifestError(
                            f"{plural(len(cells), 'cell')} but {plural(len(names), 'column')}; "
                            "put quotes around cells that contain a comma"
                        )
            except csv.Error as error:
                raise ManifestError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    finally:
        csv.field_size_limit(before)


def _jsonl(path: Path) -> Iterator[Cells]:
    with path.open(encoding="utf-8-sig") as file:
        while line := file.readline(_LARGEST_LINE):
            if len(line) == _LARGEST_LINE:
                raise ManifestError(
                    f"{path}: a line has over {_LARGEST_LINE:,} characters; split it"
                )
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield ManifestError(f"not JSON ({error}); write one JSON object per line")
                continue
            if not isinstance(record, dict):
                yield ManifestError('not a JSON object; write {"image": "1.png", "text": "a dog"}')
            elif not all(map(is_unicode, record)):
                yield ManifestError("the name of a column is not valid Unicode; rename it")
            else:
                yield {composed(name): cell for name, cell in record.items()}


def _parquet(path: Path) -> Iterator[Cells]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for record in batch.to_pylist():
                yield {composed(name.strip()): cell for name, cell in record.items()}
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(
            f"{path}: the Parquet file cannot be read ({error}); write it again"
        ) from None
