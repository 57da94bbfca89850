"""Files that are there whole or not at all, whenever the process is killed; and reading them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError

_PART = ".part"
_LARGEST = 1 << 28  # bytes of a file that is read as a whole


def write(path: Path, content: bytes | str) -> None:
    """Put `content` under `path`: first under another name, onto the disk, then in its place.

    Raises:
        OSError: it could not be written, as on a full disk; what was there before stays.
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
            part.unlink(missing_ok=True)  # a full disk needs the space
            raise
        sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write` a value as indented JSON."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read(path: Path, size: int | None = None) -> str:
    """The text of a file that anyone may have made, or of its first `size` bytes.

    Raises:
        ConfigError: it cannot be read, is no regular file, is too large, or is not UTF-8.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: no regular file; restore it")
            if status.st_size > _LARGEST:
                raise ConfigError(f"{path}: {status.st_size:,} bytes; at most {_LARGEST:,} fit")
            return file.read(size).decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: damaged: not UTF-8 ({error.reason}); restore it") from None


def parse_json(text: str, where: str | Path) -> Any:
    """The value of a JSON text.

    Args:
        where: what a message calls the text.

    Raises:
        ConfigError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: damaged: nested too deeply; restore it") from None
    except ValueError as error:
        raise ConfigError(f"{where}: damaged: not JSON ({error}); restore it") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ConfigError: the file cannot be read, or is not JSON.
    """
    return parse_json(read(path), path)


def read_jsonl(path: Path, size: int | None = None) -> list[dict[str, Any]]:
    """The objects in a JSONL file, or in its first `size` bytes.

    A line without an end is left out: a kill or a full disk cut it off.

    Raises:
        ConfigError: the file cannot be read, or a line is no JSON object.
    """
    lines = read(path, size).split("\n")[:-1]
    records = []
    for number, line in enumerate(lines, 1):
        record = parse_json(line, f"{path}, line {number}")
        if not isinstance(record, dict):
            raise ConfigError(f"{path}, line {number}: damaged: no record; restore it")
        records.append(record)
    return records


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what an interrupted `write` of it left."""
    path.unlink(missing_ok=True)
    _part(path).unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Have the folder's own entries on the disk: a new name is lost without."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError within name `path`: on a full disk it names no file, else perhaps a part."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or str(error.filename).endswith(_PART)
        if unnamed and error.errno is not None:  # without a number its text says all
            error.filename, error.filename2 = str(path), None
        raise


def check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made, before hours are spent on what goes there.

    Raises:
        OSError: names the folder.
    """
    probe = folder / f".{os.getpid()}{_PART}"
    with named(folder):
        probe.touch()
        probe.unlink()


def _at_once(path: str, flags: int) -> int:
    """Open a file; a named pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}{_PART}")
