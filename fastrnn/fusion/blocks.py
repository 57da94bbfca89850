"""A table of any size, read a block of rows at a time: CSV, JSONL or Parquet.

A block is a DataFrame whose index is the row's number in the table, from 0. What a whole table
may not have (a ragged line, no JSON) is an error in the row's stead.
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

from .errors import ManifestError
from .tables import csv_header
from .words import composed, is_unicode, plural

_LARGEST_CELL = 1 << 24  # characters of a CSV cell: a numeric series may be written into one
_LARGEST_LINE = 1 << 26  # characters of a JSONL line

Cells = dict[str, Any] | ManifestError  # of one row, or why it has none


@dataclass(frozen=True)
class Block:
    """Some rows that follow each other."""

    frame: pd.DataFrame  # its index: row numbers
    damaged: dict[int, ManifestError]  # rows that could not be read; they are not in `frame`


def read_blocks(path: Path, size: int) -> Iterator[Block]:
    """The rows of a table in blocks of at most `size`; none where it has none.

    Raises:
        ManifestError: no such file, another format, not UTF-8, or damaged as a whole.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if not path.is_file():
        raise ManifestError(
            f"{path}: there is no such file; give the path of a CSV, JSONL or Parquet file"
        )
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(
            f"{path}: a manifest ends in .csv, .jsonl or .parquet; convert it to one of them"
        )
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
    # dtype=object: a column with empty cells keeps its whole numbers whole.
    frame = pd.DataFrame(list(sound.values()), index=list(sound), dtype=object)
    frame.attrs["path"] = str(path)  # what messages call it
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
                            f"{plural(len(cells), 'cell')} under {plural(len(names), 'column')}; "
                            "put quotes around a cell that holds a comma"
                        )
            except csv.Error as error:
                raise ManifestError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    finally:
        csv.field_size_limit(before)


def _jsonl(path: Path) -> Iterator[Cells]:
    with path.open(encoding="utf-8-sig") as file:
        while line := file.readline(_LARGEST_LINE):
            if len(line) == _LARGEST_LINE:
                raise ManifestError(f"{path}: a line of over {_LARGEST_LINE} characters; divide it")
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield ManifestError(f"not JSON ({error}); write one object a line")
                continue
            if not isinstance(record, dict):
                yield ManifestError('not a JSON object; write {"image": "1.png", "text": "a dog"}')
            elif not all(map(is_unicode, record)):
                yield ManifestError("the name of a column is not Unicode; rename it")
            else:
                yield {composed(name): cell for name, cell in record.items()}


def _parquet(path: Path) -> Iterator[Cells]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for record in batch.to_pylist():
                yield {composed(name.strip()): cell for name, cell in record.items()}
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(
            f"{path}: no Parquet file that can be read ({error}); write it again"
        ) from None
