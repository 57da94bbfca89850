"""A manifest: the table that says which image, clip and text belong together, and their label.

    image,audio,text,label
    photos/1.jpg,clips/1.wav,a dog barks,yes
    photos/2.jpg,clips/2.wav,a cat sleeps,no

CSV (with a header) or JSONL (one object a line), UTF-8. Columns are known by name (`image`,
`audio`, `text`, `label`, `split` and usual synonyms) or by their files' endings; any can be named.
Paths are relative to the manifest's folder and stay inside it.

Streams. A row may hold several images, as a JSON list, in either format; its label may be a list:

    {"image": ["f/1.png", "f/2.png", "f/3.png"], "audio": "1.wav", "label": [null, "7", "7"]}

A row has as many steps as images; its label list has as many entries, null where no answer is
asked for. Its one audio file spans the row, and is cut into as many equal parts as there are steps.

A `split` column may say train, val or test (see split.py for manifests without one).
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ManifestError

MODALITIES = ("audio", "image", "text")

_NAMES = {
    "image": ("image", "images", "img", "image_path", "photo", "picture", "frame", "frames"),
    "audio": ("audio", "audio_path", "sound", "clip", "wav", "speech"),
    "text": ("text", "caption", "sentence", "transcript", "claim", "question"),
    "label": ("label", "labels", "target", "class", "answer", "y"),
    "split": ("split", "subset", "fold"),
}
_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
}
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

Label = str | tuple[str | None, ...]


@dataclass(frozen=True)
class Row:
    """One example. `where` is its place in the file, for messages."""

    where: str
    images: tuple[Path, ...] = ()
    audio: Path | None = None
    text: str | None = None
    label: Label = ""
    split: str | None = None
    stream: bool = False  # the row is a sequence of steps

    @property
    def steps(self) -> int:
        """How many steps the row has; 1 when it is no stream."""
        if not self.stream:
            return 1
        if len(self.images) > 1 or isinstance(self.label, str):
            return max(1, len(self.images))
        return len(self.label)


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read and checked; no media file was opened."""

    path: Path
    columns: Mapping[str, str]  # role -> column
    ignored: tuple[str, ...]  # columns with no role
    rows: tuple[Row, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The inputs, sorted."""
        return tuple(name for name in MODALITIES if name in self.columns)

    @property
    def stream(self) -> bool:
        """Rows are sequences of steps."""
        return self.rows[0].stream

    @property
    def per_step(self) -> bool:
        """Every step has its own label."""
        return not isinstance(self.rows[0].label, str)


def read_manifest(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Read a CSV or JSONL manifest.

    Args:
        path: the file; its ending says what it is.
        columns: role (image, audio, text, label, split) -> column, where inference is not wanted.
        root: the folder that paths are relative to and stay inside; the manifest's own by default.

    Raises:
        ManifestError: naming the file, the row and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path}: there is no such file; give the path of a CSV or JSONL file")
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path}: a manifest ends in .csv or .jsonl; convert it to one of them")
    try:
        records = list(reader(path))
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    if not records:
        raise ManifestError(f"{path}: it has no rows; each row is one example")
    names = list(dict.fromkeys(name for _, record in records for name in record))
    roles = _roles(path, names, records[0][1], dict(columns or {}))
    base = Path(os.path.realpath(root if root is not None else path.parent))
    rows = tuple(_Parser(path, base, roles).row(where, record) for where, record in records)
    ignored = tuple(name for name in names if name not in roles.values())
    _check_alike(path, rows)
    return Manifest(path, roles, ignored, rows)


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            twice = [name for name, count in Counter(header).items() if count > 1]
            if twice:
                raise ManifestError(
                    f"{path}: the column {twice[0]!r} appears twice; rename one of them"
                )
            for cells in reader:
                where = f"line {reader.line_num}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise ManifestError(
                        f"{path}, {where}: {len(cells)} cells under {len(header)} columns; "
                        "put quotes around a cell that holds a comma"
                    )
                yield where, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise ManifestError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ManifestError(
                    f"{path}, line {number}: not JSON ({error}); write one object a line"
                ) from None
            if not isinstance(record, dict):
                raise ManifestError(
                    f"{path}, line {number}: not a JSON object; write "
                    '{"image": "1.png", "label": "yes"}'
                )
            yield f"line {number}", record


def _roles(
    path: Path, names: list[str], first: Mapping[str, Any], named: dict[str, str]
) -> dict[str, str]:
    """Which column plays which role: as named by the user, else by name, else by file ending."""
    listed = ", ".join(names)
    for column in named.values():
        if column not in names:
            raise ManifestError(f"{path}: there is no column {column!r}; it has {listed}")
    for column, count in Counter(named.values()).items():
        if count > 1:
            both = " and ".join(role for role, name in named.items() if name == column)
            raise ManifestError(f"{path}: the column {column!r} was named for {both}; name two")
    found = dict(named)
    for role, synonyms in _NAMES.items():
        if role in named:
            continue
        free = [name for name in names if name not in named.values()]
        matches = [name for name in free if name.lower() in synonyms]
        if not matches and role in _ENDINGS:
            matches = [name for name in free if _ends(first.get(name), _ENDINGS[role])]
        if len(matches) > 1:
            raise ManifestError(
                f"{path}: the columns {', '.join(matches)} could each be the {role}; "
                f"say which with --{role} NAME"
            )
        if matches:
            found[role] = matches[0]
    if "label" not in found:
        raise ManifestError(
            f"{path}: no column is the label (it has {listed}); say which with --label NAME"
        )
    if not set(found) & set(MODALITIES):
        raise ManifestError(
            f"{path}: no column is an image, an audio file or a text (it has {listed}); "
            "say which with --image, --audio or --text NAME"
        )
    return found


def _ends(value: Any, endings: tuple[str, ...]) -> bool:
    text = value[0] if isinstance(value, list) and value else value
    return isinstance(text, str) and text.strip().rstrip('"]').lower().endswith(endings)


class _Parser:
    """Turns a record of cells into a Row, or says which cell is wrong."""

    def __init__(self, path: Path, root: Path, roles: Mapping[str, str]) -> None:
        self.path = path
        self.root = root
        self.roles = roles
        self.seen: dict[str, Path] = {}  # streams name the same frame often

    def row(self, where: str, record: Mapping[str, Any]) -> Row:
        self.where = where
        cells = {role: self._cell(role, record) for role in self.roles}
        images: tuple[Path, ...] = ()
        stream = False
        if "image" in cells:
            value = self._list(cells["image"])
            stream = isinstance(value, list)
            if value == []:
                raise self._error("image", "an empty list; name at least one image")
            images = tuple(self._file("image", name) for name in self._as_list(value))
        audio = self._file("audio", cells["audio"]) if "audio" in cells else None
        label = self._label(cells["label"])
        stream = stream or not isinstance(label, str)
        row = Row(
            where=where,
            images=images,
            audio=audio,
            text=str(cells["text"]) if "text" in cells else None,
            label=label,
            split=self._split(cells["split"]) if "split" in cells else None,
            stream=stream,
        )
        if not isinstance(label, str) and len(label) != row.steps:
            raise self._error(
                "label", f"{len(label)} labels for {row.steps} images; give one a step, or null"
            )
        return row

    def _error(self, role: str, text: str) -> ManifestError:
        return ManifestError(f"{self.path}, {self.where}, column {self.roles[role]!r}: {text}")

    def _cell(self, role: str, record: Mapping[str, Any]) -> Any:
        column = self.roles[role]
        value = record.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise self._error(role, "the cell is empty; fill it or remove the row")
        return value.strip() if isinstance(value, str) else value

    @staticmethod
    def _list(value: Any) -> Any:
        """A JSON list written into a cell, as a list; anything else as it is."""
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            try:
                return json.loads(value)
            except json.JSONDecodeError:
                return value
        return value

    @staticmethod
    def _as_list(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [value]

    def _label(self, value: Any) -> Label:
        value = self._list(value)
        if not isinstance(value, list):
            return self._name(value)
        if all(each is None for each in value):
            raise self._error("label", "no step has a label; remove the row")
        return tuple(None if each is None else self._name(each) for each in value)

    def _name(self, value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, (str, int, float)):
            return str(value).strip()
        raise self._error("label", f"{value!r} is no label; write a word or a number")

    def _split(self, value: Any) -> str:
        name = _SPLIT_NAMES.get(str(value).lower())
        if name is None:
            raise self._error("split", f"{value!r} is not train, val or test")
        return name

    def _file(self, role: str, value: Any) -> Path:
        if not isinstance(value, str) or not value.strip():
            raise self._error(role, f"{value!r} is no path; write one relative to {self.root}")
        if value in self.seen:
            return self.seen[value]
        if ".." in Path(value).parts or "\0" in value:
            raise self._error(role, f"{value!r} leaves the folder {self.root}; move the file there")
        file = Path(os.path.realpath(self.root / value))
        if not file.is_relative_to(self.root):
            raise self._error(
                role,
                f"{value!r} leads outside {self.root}; move the file there, or set --root",
            )
        if not file.is_file():
            raise self._error(
                role,
                f"there is no file {value!r} in {self.root}; mend the path, or remove the row",
            )
        self.seen[value] = file
        return file


def _check_alike(path: Path, rows: tuple[Row, ...]) -> None:
    """All rows answer in the same way: the first says how."""
    first = rows[0]
    for row in rows:
        if isinstance(row.label, str) != isinstance(first.label, str):
            raise ManifestError(
                f"{path}, {row.where}: one label here and a list of labels on {first.where}, "
                "or the reverse; write the same in every row"
            )
        if row.stream != first.stream:
            raise ManifestError(
                f"{path}, {row.where}: one image here and a list of images on {first.where}, "
                "or the reverse; write a list in every row, of one image if need be"
            )
