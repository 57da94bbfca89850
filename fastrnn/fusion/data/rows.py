"""Convert the cells of a table to checked values: paths, texts, labels, series and the split.

Paths are checked for form only. `resolve` finds the file when it is read.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import reprlib
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ManifestError, MediaError
from ..strings import composed, is_unicode
from ..tasks.labels import Label, canonical
from .storage import below
from .timeseries import ENDINGS, as_series

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Row:
    """One example. Files are named relative to the manifest's root."""

    where: str  # its position in the table, for messages
    images: tuple[str, ...] = ()
    audio: str | None = None
    text: str | None = None
    label: Label = ""  # "" if labels were not read
    split: str | None = None
    stream: bool = False  # the row is a sequence of steps
    series: str | np.ndarray | None = field(default=None, compare=False)  # float64 [L, K]
    group: str | None = None  # rows of one group stay in one split

    def has(self, modality: str) -> bool:
        """Whether the row has this modality."""
        return bool(self.images) if modality == "image" else getattr(self, modality) is not None


class RowReader:
    """Converts records of cells to rows, or reports the cell that is wrong.

    An empty cell of a modality means that the row lacks it. Each row has at least one modality.
    """

    def __init__(
        self, path: Path, root: Path, roles: Mapping[str, str], modalities: tuple[str, ...]
    ) -> None:
        self.path = path
        self.root = root
        self.roles = roles
        self.modalities = modalities
        self.where = ""

    def read(self, where: str, record: Mapping[str, Any]) -> Row:
        """Convert a record to a row.

        Raises:
            ManifestError: a cell is wrong; names the table, the row, the column and the remedy.
        """
        self.where = where
        cells = {role: self._cell(record.get(column)) for role, column in self.roles.items()}
        if all(cells[name] is None for name in self.modalities):
            columns = ", ".join(self.roles[name] for name in self.modalities)
            raise ManifestError(
                f"{self.path}, {where}: all inputs are empty ({columns}); fill one, or remove "
                "the row"
            )
        images = self._listed(cells.get("image"))
        if images == []:
            raise self.error(
                "image", "the list is empty; leave the cell empty if there is no image"
            )
        named = images if isinstance(images, list) else [] if images is None else [images]
        audio, text, group = (cells.get(role) for role in ("audio", "text", "group"))
        return Row(
            where=where,
            images=tuple(self._file("image", name) for name in named),
            audio=None if audio is None else self._file("audio", audio),
            text=None if text is None else self._text(text),
            label=self._label(cells["label"]) if "label" in self.roles else "",
            split=self._split(cells["split"]) if "split" in self.roles else None,
            stream=isinstance(images, list),
            series=self._series(cells.get("series")),
            group=None if group is None else self._name("group", group),
        )

    def error(self, role: str, text: str) -> ManifestError:
        """Return an error about the cell of this role in the current row."""
        return ManifestError(f"{self.path}, {self.where}, column {self.roles[role]!r}: {text}")

    @staticmethod
    def _cell(value: Any) -> Any:
        """Return the cell, or None if it is empty."""
        if isinstance(value, str):
            return value.strip() or None
        return None if isinstance(value, float) and math.isnan(value) else value

    @staticmethod
    def _listed(value: Any) -> Any:
        """Parse a cell that contains a JSON list; return anything else unchanged."""
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                return value
        return value

    def _text(self, value: Any) -> str:
        if not isinstance(value, (str, int, float)):
            raise self.error("text", f"{reprlib.repr(value)} is not a text; write words")
        text = str(value)
        if not is_unicode(text):
            raise self.error(
                "text",
                f"the text starting with {text[:40]!r} contains a character that is not valid "
                "Unicode; fix it",
            )
        return text

    def _label(self, value: Any) -> Label:
        if value is None:
            raise self.error("label", "the cell is empty; fill it, or remove the row")
        value = self._listed(value)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list):
            return canonical(self._name("label", value))
        cells = [self._cell(each) for each in value]
        return tuple(
            None if each is None else canonical(self._name("label", each)) for each in cells
        )

    def _name(self, role: str, value: Any) -> str:
        if isinstance(value, str) and not is_unicode(value):
            raise self.error(role, f"{reprlib.repr(value)} is not valid Unicode; fix it")
        if isinstance(value, (str, int, float)):
            return composed(str(value).strip())
        raise self.error(role, f"{reprlib.repr(value)} is not a {role}; write a word or a number")

    def _split(self, value: Any) -> str:
        if value is None:
            raise self.error("split", "the cell is empty; write train, val or test")
        name = _SPLIT_NAMES.get(str(value).lower())
        if name is None:
            raise self.error("split", f"{reprlib.repr(value)} is not train, val or test")
        return name

    def _series(self, value: Any) -> str | np.ndarray | None:
        if value is None:
            return None
        listed = self._listed(value)
        if isinstance(listed, (list, np.ndarray)):
            try:
                return as_series(listed)
            except MediaError as error:
                raise self.error("series", str(error)) from None
        if not isinstance(listed, str) or not listed.lower().endswith(ENDINGS):
            raise self.error(
                "series",
                f"{reprlib.repr(value)} is not a series; write a list of numbers, or the path of a "
                f"{' or '.join(ENDINGS)} file",
            )
        return self._file("series", listed)

    def _file(self, role: str, value: Any) -> str:
        """Return a path relative to the root, with "/" and without "." and double separators."""
        if not isinstance(value, str) or not value.strip():
            raise self.error(
                role, f"{reprlib.repr(value)} is not a path; write one relative to {self.root}"
            )
        if "\0" in value:
            raise self.error(role, f"{_short(value)} contains a NUL, which paths cannot; fix it")
        if not is_unicode(value):
            raise self.error(role, f"{_short(value)} is not valid Unicode; rename the file")
        if ".." in value.split("/"):
            raise self.error(
                role, f"{_short(value)} is outside the folder {self.root}; move the file into it"
            )
        try:
            name = posixpath.normpath(below(self.root, value))
            if not name.startswith("/"):
                return name
            return os.fspath(Path(os.path.realpath(name)).relative_to(self.root))
        except ValueError:
            raise self.error(
                role,
                f"{_short(value)} leads outside {self.root}; move the file into it, or set --root",
            ) from None


def resolve(root: Path, name: str) -> Path:
    """Return the path of a file that a manifest names.

    Args:
        root: the folder that the name is relative to, without symbolic links.
        name: the name, in any of Unicode's normal forms.

    Raises:
        MediaError: there is no such file, or a link leads outside the root.
    """
    try:
        file = _real(root, name)
        there = stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError):  # there is none, or the name is too long or invalid for a file
        there = False
        file = ""
    if not there:
        raise no_file(root, name)
    if not _inside(root, file):
        raise MediaError(
            f"{_short(name)} leads outside {root}; move the file into it, or set --root"
        )
    return Path(file)


def no_file(root: Path, name: str) -> MediaError:
    """Return the error about a file that does not exist."""
    return MediaError(f"there is no file {_short(name)} in {root}; fix the path, or remove the row")


def _real(root: Path, name: str) -> str:
    """Return the path of a file without symbolic links, in the disk's Unicode form."""
    if not name.isascii():
        return os.path.realpath(_spelt(root, name))
    folder, _, base = name.rpartition("/")
    path = f"{_real_folder(os.fspath(root), folder)}/{base}"
    return os.path.realpath(path) if os.path.islink(path) else path


@lru_cache(maxsize=4096)
def _real_folder(root: str, folder: str) -> str:
    """Resolve a folder once for all of its files: that takes a system call for each part."""
    return os.path.realpath(os.path.join(root, folder))


def _inside(root: Path, file: str) -> bool:
    return file.startswith(os.path.join(root, ""))


def _spelt(root: Path, name: str) -> Path:
    """Return the path in the disk's Unicode form: accented letters may be composed or not."""
    if (root / name).exists():
        return root / name
    place = root
    for part in Path(name).parts:
        spellings = [
            place / part,
            *(place / unicodedata.normalize(f, part) for f in ("NFC", "NFD")),
        ]
        place = next((each for each in spellings if each.exists()), place / part)
    return place


def _short(name: str) -> str:
    return reprlib.repr(name) if len(name) > 200 else repr(name)
