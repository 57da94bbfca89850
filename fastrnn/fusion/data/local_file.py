"""Give decoders a local path for every file that a manifest names.

Decoders take a path. A remote file, or a member of a shard, has none, so its bytes are copied to a
file in memory while it is decoded. The cache of decoded files keeps it from being copied again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config.schema import DataConfig
from ..errors import ManifestError, MediaError
from .rows import no_file, resolve
from .shards import member_of, read_index
from .storage import RemotePath


@contextmanager
def local_file(root: Path, name: str, config: DataConfig) -> Iterator[Path]:
    """Make a file that a manifest names available as a local path, while the context lasts.

    Args:
        root: the folder that the name is relative to, without symbolic links, or a remote one.
        name: a path, or the path of a shard followed by the name of its member.
        config: has the maximum size of a file that is copied.

    Raises:
        MediaError: there is no such file, it is too large, or it leads outside the root. Errors
            that name the local path are changed to name the file.
        StorageError: a remote file cannot be read now.
    """
    content = _content(root, name, config.max_file_size << 20)
    if content is None:
        yield resolve(root, name)
        return
    with os.fdopen(os.memfd_create("fastrnn"), "wb") as file:
        file.write(content)
        file.flush()
        path = Path(f"/proc/self/fd/{file.fileno()}")
        try:
            yield path
        except MediaError as error:
            raise MediaError(str(error).replace(str(path), str(root / name))) from None


def _content(root: Path, name: str, most: int) -> bytes | None:
    """Return the at most `most` bytes of a file, or None if it has a local path."""
    shard, member = member_of(name)
    try:
        if isinstance(root, RemotePath):
            return (
                read_index(root / shard).read(member, most) if member else (root / name).read(most)
            )
        if member and os.path.isfile(root / shard):
            return read_index(resolve(root, shard)).read(member, most)
        return None
    except FileNotFoundError:
        raise no_file(root, name) from None
    except ManifestError as error:  # the shard is damaged
        raise MediaError(str(error)) from None
