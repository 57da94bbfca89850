"""Convert the cells of a table to checked rows: paths, texts, labels, series and the split.

Paths must exist and be inside the root.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ManifestError, MediaError
from ..strings import composed, is_unicode
from ..tasks.labels import Label, canonical
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
    """One example. `where` is its position in the table, for messages."""

    where: str
    images: tuple[Path, ...] = ()
    audio: Path | None = None
    text: str | None = None
    label: Label = ""  # "" if labels were not read
    split: str | None = None
    stream: bool = False  # the row is a sequence of steps
    series: Path | np.ndarray | None = field(default=None, compare=False)  # float64 [L, K]
    group: str | None = None  # rows of one group stay in one split
    per_step: bool = False  # the label is a list with one entry per step

    @property
    def steps(self) -> int:
        """The number of steps; 1 if the row is not a stream."""
        if not self.stream:
            return 1
        if self.per_step and len(self.images) <= 1:
            return len(self.label)
        return max(1, len(self.images))

    def has(self, modality: str) -> bool:
        """Whether the row has this modality."""
        if modality == "image":
            return bool(self.images)
        return getattr(self, modality) is not None

    @property
    def files(self) -> tuple[tuple[str, Path], ...]:
        """The files of the row as (modality, file), in order."""
        named = [("image", path) for path in self.images]
        if self.audio is not None:
            named.append(("audio", self.audio))
        if isinstance(self.series, Path):
            named.append(("series", self.series))
        return tuple(named)


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
        self.seen: dict[str, Path] = {}  # streams name the same frame often

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
        audio, text, split = (cells.get(role) for role in ("audio", "text", "split"))
        return Row(
            where=where,
            images=()
            if images is None
            else tuple(
                self._file("image", name)
                for name in (images if isinstance(images, list) else [images])
            ),
            audio=None if audio is None else self._file("audio", audio),
            text=None if text is None else self._text(text),
            label=self._label(cells["label"]) if "label" in self.roles else "",
            split=self._split(split) if "split" in self.roles else None,
            stream=isinstance(images, list),
            series=self._series(cells.get("series")),
            group=None if cells.get("group") is None else composed(str(cells["group"])),
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
        if isinstance(value, (str, int, float)):
            return str(value)
        raise self.error("text", f"{reprlib.repr(value)} is not a text; write words")

    def _label(self, value: Any) -> Label:
        if value is None:
            raise self.error("label", "the cell is empty; fill it, or remove the row")
        value = self._listed(value)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list):
            return self._name(value)
        cells = [self._cell(each) for each in value]
        return tuple(None if each is None else self._name(each) for each in cells)

    def _name(self, value: Any) -> str:
        if isinstance(value, str) and not is_unicode(value):
            raise self.error("label", f"{reprlib.repr(value)} is not valid Unicode; fix it")
        if isinstance(value, (str, int, float)):
            return composed(canonical(str(value).strip()))
        raise self.error("label", f"{reprlib.repr(value)} is not a label; write a word or a number")

    def _split(self, value: Any) -> str:
        if value is None:
            raise self.error("split", "the cell is empty; write train, val or test")
        name = _SPLIT_NAMES.get(str(value).lower())
        if name is None:
            raise self.error("split", f"{reprlib.repr(value)} is not train, val or test")
        return name

    def _series(self, value: Any) -> Path | np.ndarray | None:
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

    def _file(self, role: str, value: Any) -> Path:
        if not isinstance(value, str) or not value.strip():
            raise self.error(
                role, f"{reprlib.repr(value)} is not a path; write one relative to {self.root}"
            )
        if value in self.seen:
            return self.seen[value]
        named = reprlib.repr(value) if len(value) > 200 else repr(value)
        if "\0" in value:
            raise self.error(role, f"{named} contains a NUL, which paths cannot; fix it")
        if ".." in Path(value).parts:
            raise self.error(
                role, f"{named} is outside the folder {self.root}; move the file into it"
            )
        try:
            file = Path(os.path.realpath(_spelt(self.root, value)))
            inside, there = file.is_relative_to(self.root), file.is_file()
        except (OSError, ValueError):  # the name is too long or invalid for a file
            inside, there = True, False
        if not inside:
            raise self.error(
                role,
                f"{named} leads outside {self.root}; move the file into it, or set --root",
            )
        if not there:
            raise self.error(
                role,
                f"there is no file {named} in {self.root}; fix the path, or remove the row",
            )
        self.seen[value] = file
        return file


def _spelt(root: Path, value: str) -> Path:
    """Return the path in the disk's Unicode form: accented letters may be composed or not."""
    if (root / value).exists():
        return root / value
    place = root
    for part in Path(value).parts:
        spellings = [
            place / part,
            *(place / unicodedata.normalize(f, part) for f in ("NFC", "NFD")),
        ]
        place = next((each for each in spellings if each.exists()), place / part)
    return place
