"""Write records to a JSONL or Parquet file that appears under its name only when complete."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError
from ..files import named
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


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `path` if the block ends without an error.

    The temporary file is in the same folder. It is removed after an error.

    Raises:
        ConfigError: `path` is a folder.
        OSError: the folder cannot be written, or the disk is full; names `path`.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file")
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        os.close(handle)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            part.chmod(0o666 & ~mask)  # mkstemp creates a file for its owner only
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


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
