"""Files on other machines, named by a URL such as s3://bucket/table.csv, which fsspec reads.

A remote table has a remote root: its own folder, or --root. The root alone decides which protocol
and which host are read. A cell that names another one is an error, so that a table cannot make this
process fetch http://internal/ or read a local file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import IO, Any
from urllib.parse import unquote

from ..errors import ConfigError, FusionError, MediaError, StorageError

# fsspec has more protocols. Some of them run commands, or read what another URL names.
PROTOCOLS = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "hdfs", "webhdfs"),
    *("http", "https", "memory"),
)


class RemotePath(PosixPath):
    """The path of a file or a folder behind a URL, which can be read but not written.

    `parent`, `name`, `suffix` and `/` work as for other paths.
    """

    def __str__(self) -> str:
        protocol, _, rest = super().__str__().partition(":")
        return f"{protocol}://{rest.lstrip('/')}"

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def resolve(self, strict: bool = False) -> RemotePath:
        """Return the path itself: there are no links."""
        return self

    def is_file(self) -> bool:
        """Whether there is such a file.

        Raises:
            StorageError, ConfigError: as for `open`.
        """
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there is such a folder.

        Raises:
            StorageError, ConfigError: as for `open`.
        """
        return self._kind() == "directory"

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """Yield what the folder contains.

        Raises:
            StorageError, ConfigError: as for `open`.
        """
        with self.errors():
            names = self._system().ls(str(self), detail=False)
        yield from (self / name.rstrip("/").rpartition("/")[2] for name in names)

    def open(self, mode: str = "r", *_: Any, **how: Any) -> IO[Any]:  # type: ignore[override]
        """Open the file for reading; `how` is encoding, errors and newline.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: its server cannot be reached, or denies access. Reading raises it, too.
            ConfigError: the package that reads the protocol is not installed.
        """
        with self.errors():
            file = io.BufferedReader(_RemoteFile(self, self._system().open(str(self), "rb")))
        return file if "b" in mode else io.TextIOWrapper(file, **how)

    def read(self, most: int) -> bytes:
        """Return the content of the file.

        Raises:
            MediaError: it has more than `most` bytes. It is not downloaded, if its server tells.
            FileNotFoundError, StorageError, ConfigError: as for `open`.
        """
        with self.errors(), self._system().open(str(self), "rb") as file:
            size = getattr(file, "size", None)  # None if the server does not tell
            if size is not None and size > most:
                raise too_large(self, most)
            content = file.read(most + 1)
        if len(content) > most:
            raise too_large(self, most)
        return content

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, fewer at the end of the file.

        Raises:
            FileNotFoundError, StorageError, ConfigError: as for `open`.
        """
        with self.errors():
            return self._system().cat_file(str(self), start=start, end=end)

    def _kind(self) -> str | None:
        """Return "file", "directory", or None if there is neither."""
        try:
            with self.errors():
                return self._system().info(str(self))["type"]
        except FileNotFoundError:
            return None

    def _system(self) -> Any:
        """Return the file system. fsspec caches it, once for each process."""
        import fsspec.core

        url = str(self)
        as_path(url)  # a part that was appended may have made it a chain of protocols
        return fsspec.core.url_to_fs(url)[0]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the errors of a file system, which may have any type, into those of `open`."""
        try:
            yield
        except (FileNotFoundError, FusionError, MemoryError):
            raise
        except ImportError as error:
            raise ConfigError(f"{self}: cannot be read: {error}") from None
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise StorageError(
                f"{self}: cannot be read ({said}); check the address, the access and the network"
            ) from None


class _RemoteFile(io.RawIOBase):
    """An open file; while it is read, the network may fail."""

    def __init__(self, path: RemotePath, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def readinto(self, buffer: Any) -> int:
        with self._path.errors():
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._path.errors():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def too_large(path: Path, most: int) -> MediaError:
    """Return the error about a file of more than `most` bytes."""
    return MediaError(
        f"{path}: the file has more than the {most >> 20} MB allowed; make it smaller, or raise "
        "--max-file-size"
    )


def as_path(source: str | os.PathLike[str]) -> Path:
    """Return the path of a file name or a URL. file:// is an ordinary path.

    Raises:
        ConfigError: the protocol is not one of PROTOCOLS, or protocols are chained.
    """
    if isinstance(source, Path):
        return source
    text = os.fspath(source)
    protocol, separator, rest = text.partition("://")
    if not separator or "/" in protocol:
        return Path(text)
    if protocol == "file" and rest.startswith("/"):
        return Path(rest)
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"{text}: the protocol {protocol!r} cannot be read; use file:///PATH, or one of "
            f"{', '.join(PROTOCOLS)}"
        )
    if "::" in rest:
        raise ConfigError(f"{text}: chained protocols (::) cannot be read; rename the file")
    return RemotePath(text)


def opened(path: Path) -> Path | IO[bytes]:
    """Return a local path as it is, and open a remote one, for libraries that take either."""
    return path.open("rb") if isinstance(path, RemotePath) else path


def real_folder(folder: str | os.PathLike[str]) -> Path:
    """Return a folder without symbolic links, or a remote one as it is."""
    path = as_path(folder)
    return path if isinstance(path, RemotePath) else Path(os.path.realpath(path))


def below(root: Path, cell: str) -> str:
    """Return the path in a cell without the URL of the root.

    Returns:
        A path relative to the root or, under a local root, an absolute one. The caller checks that
        it contains no ".." and stays inside.

    Raises:
        ValueError: the cell names another place than the root.
    """
    if not isinstance(root, RemotePath):
        path = as_path(cell)
        if isinstance(path, RemotePath):
            raise ValueError(cell)
        return cell.removeprefix("file://")
    start = str(root).rstrip("/") + "/"
    name = cell.removeprefix("memory://" if start == "memory:/" else start)
    # A server may decode %2e%2e, and would take what follows ? for parameters.
    if "://" in name or "::" in name or ".." in unquote(name).split("/"):
        raise ValueError(cell)
    if str(root).startswith("http") and ("?" in name or "#" in name):
        raise ValueError(cell)
    return name
