"""Download and unpack Debian packages, without Debian's tools."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_POOL = "https://deb.debian.org/debian/pool/main"
_HEADER = 60  # bytes of the header of a member of an ar archive


@dataclass(frozen=True)
class Package:
    """A package in Debian's archive: its path below the pool, and the SHA-256 of the file."""

    path: str
    sha256: str


def unpack(packages: Iterable[Package], folder: Path) -> None:
    """Download the packages that are not in `folder` yet, and unpack them there.

    Raises:
        OSError: a download fails, or the folder cannot be written.
        ValueError: a downloaded file is not the expected one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        file = folder / Path(package.path).name
        if file.exists():
            continue
        print(f"downloading {file.name}", flush=True)
        part = file.with_suffix(".part")
        url = f"{_POOL}/{package.path}"
        with urllib.request.urlopen(url, timeout=60) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        content = part.read_bytes()
        if hashlib.sha256(content).hexdigest() != package.sha256:
            raise ValueError(f"{url}: not the expected file; delete {part} and try again")
        with tarfile.open(fileobj=io.BytesIO(_data(content))) as archive:
            archive.extractall(folder, filter="data")
        part.rename(file)


def _data(package: bytes) -> bytes:
    """Return the archive of a package's files: the member data.tar of an ar archive."""
    start = len(b"!<arch>\n")
    while start < len(package):
        header = package[start : start + _HEADER]
        size = int(header[48:58])
        start += _HEADER
        if header.startswith(b"data.tar"):
            return package[start : start + size]
        start += size + size % 2
    raise ValueError("the package has no member data.tar")
