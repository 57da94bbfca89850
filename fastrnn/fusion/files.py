"""Atomic file writes, and checked reads of JSON and JSONL files."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError

_PART = ".part"
_LARGEST = 1 << 28  # bytes; larger files are not read into memory


def write(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` atomically: write a temporary file, sync it, then rename it.

    A process that is killed leaves either the old file or the new one, never a partial one.

    Raises:
        OSError: writing failed, for example on a full disk; the previous file is unchanged.
    """
    if isinstance(content, str):
        content = content.encode()
    part = _part(path)
    with named(path):
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)  # free the space: the disk may be full
            raise
        sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read(path: Path, size: int | None = None) -> str:
    """Return the text of an untrusted file, or of its first `size` bytes.

    Raises:
        ConfigError: the file cannot be read, is not a regular file, is too large, or is not UTF-8.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: not a regular file; restore it")
            if status.st_size > _LARGEST:
                raise ConfigError(
                    f"{path}: the file has {status.st_size:,} bytes; at most {_LARGEST:,} can be "
                    "read; restore it"
                )
            return file.read(size).decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: damaged: not UTF-8 ({error.reason}); restore it") from None


def parse_json(text: str, where: str | Path) -> Any:
    """Return the value of a JSON text.

    Args:
        where: the name of the text in error messages.

    Raises:
        ConfigError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: damaged: nested too deeply; restore it") from None
    except ValueError as error:
        raise ConfigError(f"{where}: damaged: not JSON ({error}); restore it") from None


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        ConfigError: the file cannot be read, or is not JSON.
    """
    return parse_json(read(path), path)


def read_jsonl(path: Path, size: int | None = None) -> list[dict[str, Any]]:
    """Return the objects in a JSONL file, or in its first `size` bytes.

    A last line without a newline is ignored: a kill or a full disk cut it off.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object.
    """
    lines = read(path, size).split("\n")[:-1]
    records = []
    for number, line in enumerate(lines, 1):
        record = parse_json(line, f"{path}, line {number}")
        if not isinstance(record, dict):
            raise ConfigError(f"{path}, line {number}: damaged: not a JSON object; restore it")
        records.append(record)
    return records


def remove(path: Path) -> None:
    """Remove a file, if it exists, and the temporary file of an interrupted `write`."""
    path.unlink(missing_ok=True)
    _part(path).unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Sync a folder's entries to the disk. Without this, a crash can lose a new file name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Make an OSError raised inside name `path`.

    On a full disk the error names no file; otherwise it may name the temporary file.
    """
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or str(error.filename).endswith(_PART)
        if unnamed and error.errno is not None:  # without errno, the text is the whole message
            error.filename, error.filename2 = str(path), None
        raise


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


def check_writable(folder: Path) -> None:
    """Check that files can be created in a folder, before hours of training write to it.

    Raises:
        OSError: the folder is not writable; the error names it.
    """
    probe = folder / f".{os.getpid()}{_PART}"
    with named(folder):
        probe.touch()
        probe.unlink()


def _at_once(path: str, flags: int) -> int:
    """Open a file without blocking: opening a named pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}{_PART}")
