"""Shards: .tar files whose members are read in place, in any order, without unpacking.

Nothing is extracted, and links are not followed: a member is a name, an offset and a size. The
index of a shard is read once, from its headers. Worker processes inherit it.
"""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import FusionError, ManifestError
from .storage import RemotePath, too_large

ENDING = ".tar"
_BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}", re.ASCII)
_MOST_SHARDS = 100_000  # of one pattern
_LONGEST_NAME = 400  # bytes; a member takes at least 512 bytes, so an index is smaller than its tar
_LARGEST_HEADER = 1 << 20  # bytes of a header with a long name or with other attributes
_BLOCK = 512  # bytes; a tar ends with a block of zeros


@dataclass(frozen=True)
class ShardIndex:
    """The members of a shard, in order.

    Attributes:
        names: normalised, UTF-8, [N].
        offsets, sizes: in bytes, int64 [N].
    """

    path: Path
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def name(self, number: int) -> str:
        """Return the name of a member."""
        return self.names[number].decode(errors="surrogateescape")

    def read(self, name: str, most: int) -> bytes:
        """Return the content of a member.

        Raises:
            FileNotFoundError: there is no such member.
            MediaError: it has more than `most` bytes.
            StorageError: a remote shard cannot be read now.
        """
        key = name.encode(errors="surrogateescape")
        place = int(np.searchsorted(self.names, key, sorter=self._order))
        number = int(self._order[place]) if place < len(self) else -1
        if number < 0 or self.names[number] != key:
            raise FileNotFoundError(f"{self.path}/{name}")
        start, size = int(self.offsets[number]), int(self.sizes[number])
        if size > most:
            raise too_large(self.path / name, most)
        if isinstance(self.path, RemotePath):
            return self.path.read_range(start, start + size)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.names, kind="stable")


def member_of(name: str) -> tuple[str, str]:
    """Divide "a/b.tar/c/d.png" into the shard a/b.tar and its member c/d.png, or "" if none."""
    parts = name.split("/")
    for place, part in enumerate(parts, 1):
        if part.lower().endswith(ENDING):
            return "/".join(parts[:place]), "/".join(parts[place:])
    return name, ""


def shards_of(path: Path) -> list[Path]:
    """Return the shards that a path names: a .tar file, a pattern of them, or a folder of them.

    In a pattern, {000..004} stands for each number from 000 to 004.

    Returns:
        The shards in order, which need not exist; none if the path names another kind of file.

    Raises:
        ManifestError: the pattern has too many shards, or none.
    """
    if path.suffix.lower() == ENDING:
        return _expanded(path)
    if path.suffix.lower() not in (".csv", ".jsonl", ".parquet") and path.is_dir():
        return sorted(each for each in path.iterdir() if each.suffix.lower() == ENDING)
    return []


def _expanded(path: Path) -> list[Path]:
    text = path.name
    ranges = [(found[1], found[2]) for found in _BRACES.finditer(text)]
    counts = [max(0, int(last) - int(first) + 1) for first, last in ranges]
    if not 0 < np.prod(counts, dtype=float) <= _MOST_SHARDS:
        raise ManifestError(
            f"{path}: the pattern must name 1 to {_MOST_SHARDS:,} shards; fix its numbers"
        )
    numbers = (
        [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        for first, last in ranges
    )
    pieces = _BRACES.sub("\0", text).split("\0")
    return [
        path.with_name("".join(map("".join, zip(pieces, (*chosen, ""), strict=True))))
        for chosen in product(*numbers)
    ]


def read_index(path: Path) -> ShardIndex:
    """Return the index of a shard, which is read once as long as the shard does not change.

    Raises:
        FileNotFoundError: there is no such shard.
        ManifestError: it is damaged, compressed, or has a member that is not a regular file.
        StorageError: a remote shard cannot be read now.
    """
    if isinstance(path, RemotePath):
        return _index(path, None)
    status = os.stat(path)
    return _index(path, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=_MOST_SHARDS)
def _index(path: Path, stamp: tuple[int, int] | None) -> ShardIndex:
    with _storage_errors(path), path.open("rb") as file:
        try:
            names, places, end = _members(path, file)
        except FusionError:
            raise
        except (
            tarfile.TarError,
            ValueError,
            ArithmeticError,
            LookupError,
            RecursionError,
        ) as error:
            raise ManifestError(
                f"{path}: the shard cannot be read as an uncompressed .tar ({error}); write it "
                "again"
            ) from None
        # At a damaged header, tarfile ends as if the archive did.
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ManifestError(f"{path}: the shard is damaged or cut off; write it again")
    known = np.array(names, dtype=np.bytes_)
    in_order = np.sort(known)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(twice):
        raise ManifestError(f"{path}: the member {_shown(twice[0])} appears twice; remove one")
    offsets, sizes = np.array(places, np.int64).reshape(-1, 2).T
    return ShardIndex(path, known, offsets, sizes)


def _storage_errors(path: Path) -> AbstractContextManager[None]:
    return path.errors() if isinstance(path, RemotePath) else nullcontext()


def _members(path: Path, file: IO[bytes]) -> tuple[list[bytes], list[tuple[int, int]], int]:
    """Return the names of a shard's members, their offsets and sizes, and the end of the last."""
    names: list[bytes] = []
    places: list[tuple[int, int]] = []
    with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:
        # Python 3.10 cannot ask an empty archive for a member a second time.
        if tar.firstmember is None:  # type: ignore[attr-defined]
            return names, places, tar.offset
        while (member := tar.next()) is not None:
            if member.size < 0 or tar.offset < member.offset_data:
                raise tarfile.ReadError("a size is negative")  # tarfile would go back for ever
            tar.members = []  # type: ignore[attr-defined]  # or it keeps all of them
            if not member.isdir():
                names.append(_name(path, member))
                places.append((member.offset_data, member.size))
        return names, places, tar.offset


def _name(path: Path, member: tarfile.TarInfo) -> bytes:
    if not member.isreg() or member.issparse():
        raise ManifestError(
            f"{path}: the member {member.name[:200]!r} is a link, a device or sparse; store a "
            "regular file"
        )
    name = posixpath.normpath(member.name).encode(errors="surrogateescape")
    if len(name) > _LONGEST_NAME or b"\0" in name:
        raise ManifestError(
            f"{path}: the member {_shown(name)} has a name of more than {_LONGEST_NAME} bytes, or "
            "with a NUL; rename it"
        )
    return name


def _shown(name: bytes) -> str:
    return repr(name[:200].decode(errors="replace"))


class _Headers:
    """The file of a shard as tarfile reads it: an untrusted header may claim any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
