"""Read shards of the WebDataset format as a table: consecutive members with one key are a row.

The key is a member's name up to the first dot of its base name. The rest is its column:

| member | column |
|---|---|
| .png, .jpg, .jpeg, .webp, .bmp | image: the path of the member |
| .wav, .flac, .ogg, .mp3 | audio |
| .npy | series |
| .txt | text: the content |
| .cls | label |
| .json | a column for each field of the object |
| another, such as .left.png | named like this; a path, or the content of .txt and .cls |
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

from ..errors import ManifestError
from ..strings import composed, is_unicode
from .records import Record, Records, names_of
from .shards import ShardIndex, read_index
from .storage import RemotePath

_COLUMNS = {
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "bmp"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg", "mp3"), "audio"),
    "npy": "series",
    "txt": "text",
    "cls": "label",
}
_CONTENT = ("txt", "cls")  # members whose content is the cell
_FIELDS = "json"
_LARGEST = 1 << 24  # bytes of a text, a label or a JSON object


def open_shards(
    path: Path, shards: Sequence[Path]
) -> tuple[tuple[str, ...], Callable[[], Records]]:
    """Open a table of shards.

    Args:
        path: their common name, for messages.

    Returns:
        The names of the columns, and a function that starts to read (position, cells) of each row.

    Raises:
        ManifestError: a shard does not exist or is damaged, or no row can be used.
        StorageError: a remote shard cannot be read now.
    """

    def records() -> Records:
        number = 0
        for shard in shards:
            index = _index(path, shard)
            with shard.open("rb") as file:
                for members in _samples(index):
                    where = f"row {number}"
                    try:
                        yield where, _record(index, file, members)
                    except ManifestError as error:
                        yield where, ManifestError(f"{path}, {where}: {error}")
                    number += 1

    return names_of(records()), records


def _index(path: Path, shard: Path) -> ShardIndex:
    try:
        return read_index(shard)
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no shard {shard}; fix the path") from None


def _split(name: str) -> tuple[str, str]:
    """Return the key and the extension of a member; the extension is "" if there is no dot."""
    folder, _, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return f"{folder}/{key}", extension.lower() if key else ""


def _samples(index: ShardIndex) -> Iterator[list[int]]:
    """Yield the numbers of the members of each sample."""
    numbers = (number for number in range(len(index)) if _split(index.name(number))[1])
    for _, members in groupby(numbers, lambda number: _split(index.name(number))[0]):
        yield list(members)


def _record(index: ShardIndex, file: IO[bytes], members: Sequence[int]) -> Record:
    """Return the cells of a sample.

    Raises:
        ManifestError: the content of a member cannot be used, or two give the same column.
    """
    shard = index.path if isinstance(index.path, RemotePath) else os.path.abspath(index.path)
    record: Record = {}
    for number in members:
        name = index.name(number)
        extension = _split(name)[1]
        column, last = _COLUMNS.get(extension, extension), extension.rpartition(".")[2]
        cells: Record = {column: f"{shard}/{name}"}
        if last in _CONTENT:
            cells = {column: _text(index, file, number)}
        elif last == _FIELDS:
            cells = _fields(name, _text(index, file, number))
        for each in cells.keys() & record.keys():
            raise ManifestError(f"{name} is a second {each} of the sample; remove one")
        record |= cells
    return record


def _text(index: ShardIndex, file: IO[bytes], number: int) -> str:
    size = int(index.sizes[number])
    if size > _LARGEST:
        raise ManifestError(f"{index.name(number)} has over {_LARGEST:,} bytes; make it shorter")
    file.seek(int(index.offsets[number]))
    try:
        return file.read(size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{index.name(number)} is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None


def _fields(name: str, text: str) -> Record:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name} is not JSON ({error}); write a JSON object") from None
    if not isinstance(found, dict):
        raise ManifestError(f'{name} is not a JSON object; write {{"label": "yes"}}')
    for field in found:
        if not is_unicode(field):
            raise ManifestError(f"{name}: the name {field!r} is not valid Unicode; rename it")
    return {composed(field): value for field, value in found.items()}
