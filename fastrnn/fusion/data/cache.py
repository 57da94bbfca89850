"""A cache of decoded files that all worker processes of a fit share.

Memory comes from an anonymous mapping, which forked processes inherit, or from a temporary file
that has no name and so disappears with the last process. Entries are only added; when the cache is
full, later files are decoded each time. Whether a file is cached has no effect on its values.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError

MEMORY = 128 << 20  # default size of a memory cache in bytes


class ArrayCache:
    """Arrays by slot number, in memory or on disk.

    Args:
        slots: the number of arrays that may be stored.
        size: the most bytes to store; None for no limit, on disk only.
        folder: where to create the temporary file; None to store in memory.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, slots: int, size: int | None = MEMORY, folder: Path | None = None) -> None:
        self._limit = size
        self._memory: np.ndarray | None = None  # uint8
        self._file: Any = None
        if folder is not None:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        elif size:
            # The system commits pages when they are written.
            self._memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
            self._stored = self._memory.view()
            self._stored.flags.writeable = False
        # Reading an item of a memoryview takes a third of the time of a numpy array's.
        index = memoryview(mmap.mmap(-1, 16 * slots + 8)).cast("q")
        self._used = index[:1]
        self._places, self._sizes = index[1 : slots + 1], index[slots + 1 :]
        self._lock = multiprocessing.get_context("fork").Lock()

    def get(self, slot: int) -> np.ndarray | None:
        """Return the bytes of a stored array, uint8 [N] and read-only, or None."""
        end = self._places[slot]  # 0 if there is none
        if not end:
            return None
        start = end - self._sizes[slot]
        if self._memory is not None:
            return self._stored[start:end]
        return np.frombuffer(os.pread(self._file.fileno(), end - start, start), np.uint8)

    def put(self, slot: int, value: np.ndarray) -> None:
        """Store an array if there is space."""
        if self._memory is None and self._file is None:
            return
        with self._lock:
            place = self._used[0]
            end = place + (value.nbytes + 15) // 16 * 16
            if self._places[slot] or (self._limit is not None and end > self._limit):
                return
            self._used[0] = end
        data = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
        if self._memory is not None:
            self._memory[place : place + value.nbytes] = data
        elif not self._write(data, place):
            return
        self._sizes[slot] = value.nbytes
        self._places[slot] = place + value.nbytes  # written last: others may read it from now on

    def _write(self, data: np.ndarray, place: int) -> bool:
        """Write to the file; on a full disk, stop caching."""
        try:
            return os.pwrite(self._file.fileno(), data.tobytes(), place) == data.nbytes
        except OSError:
            self._limit = 0
            return False


def make_cache(kind: str | None, slots: int, size: int, folder: Path | None) -> ArrayCache | None:
    """Create the cache of a fit.

    Args:
        kind: "memory", "disk", or None for no cache.
        slots: the number of files.
        size: the most bytes of a memory cache.
        folder: where a disk cache is created; None for the system's folder of temporary files.

    Raises:
        ConfigError: another kind.
    """
    if kind is None:
        return None
    if kind == "memory":
        return ArrayCache(slots, size)
    if kind == "disk":
        return ArrayCache(slots, None, folder or Path(tempfile.gettempdir()))
    raise ConfigError(f"cache must be memory, disk or None; got {kind!r}")
