"""Write records to a JSONL or Parquet file that appears under its name only when complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError
from ..tasks import Task

Record = dict[str, Any]


class Writer(Protocol):
    """Writes records, one block at a time."""

    def write(self, records: Sequence[Record]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """Writes one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, records: Sequence[Record]) -> None:
        """Append records."""
        for record in records:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class ParquetWriter:
    """Writes one row group per block.

    Probabilities are a struct with one field per label. `error` is null for predicted rows.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self._schema = schema(task)
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(self, records: Sequence[Record]) -> None:
        """Append records."""
        self._writer.write_table(pa.Table.from_pylist(list(records), self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def schema(task: Task) -> pa.Schema:
    """Return the schema of a Parquet file of predictions."""
    return pa.schema([("row", pa.int64()), *task.fields(), ("error", pa.string())])


def writer(path: Path, ending: str, task: Task) -> Writer:
    """Return a writer for the format of a file extension.

    Raises:
        ConfigError: the extension is not .jsonl or .parquet.
    """
    if ending == ".jsonl":
        return JsonlWriter(path)
    if ending == ".parquet":
        return ParquetWriter(path, task)
    raise ConfigError(f"the output file must end in .jsonl or .parquet; got extension {ending!r}")
