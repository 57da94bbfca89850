"""Convert the cells of a table to checked values: paths, texts, labels, series and the split.

Paths are checked for form only. `resolve` finds the file when it is read.
"""

from __future__ import annotations

import os
import posixpath
import reprlib
import stat
import unicodedata
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..config.inputs import inputs_of, modality_of, of_modality
from ..errors import ManifestError, MediaError
from ..strings import composed, is_unicode, plural
from ..tasks.labels import Label, canonical
from .records import parsed, stripped
from .storage import below
from .tabular import as_cell
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


# Of an input: images, or tabular cells; audio, text; series [L, K]
Value = tuple[str | None, ...] | str | np.ndarray


@dataclass(frozen=True)
class Row:
    """One example. Files are named relative to the manifest's root."""

    where: str  # its position in the table, for messages
    inputs: Mapping[str, Value] = field(default_factory=dict)  # of those that the row has
    label: Label = ""  # "" if labels were not read
    split: str | None = None
    stream: bool = False  # the row is a sequence of steps
    group: str | None = None  # rows of one group stay in one split

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return self._comparable() == other._comparable()

    def __hash__(self) -> int:
        return hash(self._comparable())

    def _comparable(self) -> tuple[Hashable, ...]:
        inputs = frozenset(
            (name, (each.shape, each.tobytes()) if isinstance(each, np.ndarray) else each)
            for name, each in self.inputs.items()
        )
        return self.where, inputs, self.label, self.split, self.stream, self.group

    def has(self, name: str) -> bool:
        """Whether the row has this input."""
        return name in self.inputs

    @property
    def images(self) -> tuple[str, ...]:
        """The files of the only column of images."""
        return self.inputs.get("image", ())  # type: ignore[return-value]

    @property
    def audio(self) -> str | None:
        """The file of the only column of audio."""
        return self.inputs.get("audio")  # type: ignore[return-value]

    @property
    def text(self) -> str | None:
        """The text of the only column of texts."""
        return self.inputs.get("text")  # type: ignore[return-value]

    @property
    def series(self) -> str | np.ndarray | None:
        """The file or the values, float64 [L, K], of the only column of series."""
        return self.inputs.get("series")  # type: ignore[return-value]


class RowReader:
    """Converts records of cells to rows, or reports the cell that is wrong.

    An empty cell of an input means that the row lacks it. Each row has at least one input.
    """

    def __init__(self, path: Path, root: Path, roles: Mapping[str, str]) -> None:
        self.path = path
        self.root = root
        self.roles = roles  # input or role -> column
        self.inputs = inputs_of(roles)
        self.tabular = sorted(of_modality(roles, "tabular"))  # the columns of this input
        self.where = ""

    def read(self, where: str, record: Mapping[str, Any]) -> Row:
        """Convert a record to a row.

        Raises:
            ManifestError: a cell is wrong; names the table, the row, the column and the remedy.
        """
        self.where = where
        cells = {role: stripped(record.get(column)) for role, column in self.roles.items()}
        there = {name: cells[name] for name in self.inputs if cells.get(name) is not None}
        tabular = tuple(self._tabular(name, cells[name]) for name in self.tabular)
        given = any(cell is not None for cell in tabular)
        if not there and not given:
            names = [*filter(self.roles.get, self.inputs), *self.tabular]
            columns = ", ".join(self.roles[name] for name in names)
            raise ManifestError(
                f"{self.path}, {where}: all inputs are empty ({columns}); fill one, or remove "
                "the row"
            )
        images = {
            name: parsed(cell) for name, cell in there.items() if modality_of(name) == "image"
        }
        stream = self._is_stream(images)
        convert = {"audio": self._file, "text": self._text, "series": self._series}
        group = cells.get("group")
        return Row(
            where=where,
            inputs={
                name: self._images(name, images[name])
                if name in images
                else convert[modality_of(name)](name, cell)
                for name, cell in there.items()
            }
            | ({"tabular": tabular} if given else {}),
            label=self._label(cells["label"]) if "label" in self.roles else "",
            split=self._split(cells["split"]) if "split" in self.roles else None,
            stream=stream,
            group=None if group is None else self._name("group", group),
        )

    def _is_stream(self, images: Mapping[str, Any]) -> bool:
        """Whether the cells of images are lists, which must then be equally long."""
        lengths = {
            name: len(each) if isinstance(each, list) else None for name, each in images.items()
        }
        first = next(iter(lengths), "")
        for name, length in lengths.items():
            if length != lengths[first]:
                shown, other = (
                    "one image" if each is None else f"a list of {plural(each, 'image')}"
                    for each in (length, lengths[first])
                )
                raise self.error(
                    name,
                    f"{shown}, but {other} in column {self.roles[first]!r}; give all columns of "
                    "images as many steps",
                )
        return lengths.get(first) is not None

    def _images(self, name: str, value: Any) -> tuple[str, ...]:
        if value == []:
            raise self.error(name, "the list is empty; leave the cell empty if there is no image")
        return tuple(
            self._file(name, each) for each in (value if isinstance(value, list) else [value])
        )

    def error(self, role: str, text: str) -> ManifestError:
        """Return an error about the cell of this role in the current row."""
        return ManifestError(f"{self.path}, {self.where}, column {self.roles[role]!r}: {text}")

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, (str, int, float)):
            raise self.error(name, f"{reprlib.repr(value)} is not a text; write words")
        text = str(value)
        if not is_unicode(text):
            raise self.error(
                name,
                f"the text starting with {text[:40]!r} contains a character that is not valid "
                "Unicode; fix it",
            )
        return text

    def _label(self, value: Any) -> Label:
        if value is None:
            raise self.error("label", "the cell is empty; fill it, or remove the row")
        value = parsed(value)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list):
            return canonical(self._name("label", value))
        cells = [stripped(each) for each in value]
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

    def _tabular(self, name: str, value: Any) -> str | None:
        try:
            cell = as_cell(value)
        except TypeError:
            raise self.error(
                name, f"{reprlib.repr(value)} is not a number, a category or a date; fix it"
            ) from None
        except ValueError as error:
            raise self.error(name, f"{error}; shorten it") from None
        if cell is not None and not is_unicode(cell):
            raise self.error(name, f"{reprlib.repr(cell)} is not valid Unicode; fix it")
        return cell

    def _series(self, name: str, value: Any) -> str | np.ndarray:
        listed = parsed(value)
        if isinstance(listed, (list, np.ndarray)):
            try:
                return as_series(listed)
            except MediaError as error:
                raise self.error(name, str(error)) from None
        if not isinstance(listed, str) or not listed.lower().endswith(ENDINGS):
            raise self.error(
                name,
                f"{reprlib.repr(value)} is not a series; write a list of numbers, or the path of a "
                f"{' or '.join(ENDINGS)} file",
            )
        return self._file(name, listed)

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
        forms = (unicodedata.normalize(form, part) for form in ("NFC", "NFD"))
        spellings = [place / part, *(place / each for each in forms)]
        place = next((each for each in spellings if each.exists()), place / part)
    return place


def _short(name: str) -> str:
    return reprlib.repr(name) if len(name) > 200 else repr(name)
