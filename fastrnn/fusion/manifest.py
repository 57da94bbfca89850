"""A manifest: the table that says which inputs belong together, and their label.

    image,audio,text,label
    photos/1.jpg,clips/1.wav,a dog barks,yes
    photos/2.jpg,,a cat sleeps,no

CSV (with a header), JSONL (one object a line), both UTF-8, Parquet, or a pandas DataFrame. Columns
are known by name (`image`, `audio`, `text`, `series`, `label`, `split`, `group` and usual synonyms)
or by their files' endings; any can be named. Paths are relative to the manifest's folder (a
DataFrame's to the current one) and stay inside it. An empty cell of an input is a missing one.

A `series` cell is a JSON list of numbers, or of a list of numbers a step, or names a .csv or .npy
file of them.

Labels. A name, a number, several names (`a|b`), or one a step: kinds.py.

Streams. A row may hold several images, as a JSON list, in any format; its label may be a list too:

    {"image": ["f/1.png", "f/2.png", "f/3.png"], "audio": "1.wav", "label": [null, "7", "7"]}

A row has as many steps as images; its label list has as many entries, null where no answer is
asked for. Its one audio file spans the row, and is cut into as many equal parts as there are steps.

A `split` column may say train, val or test; rows of one `group`, or with a file in common, are not
dealt apart (split.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from .bad_rows import BadRows
from .config import MODALITIES
from .errors import ConfigError, FusionError, ManifestError
from .groups import crossing_contents, crossing_files, crossing_group
from .kinds import Label, check_kind, infer_kind, regression_hint, settle
from .rows import Row, RowReader
from .tables import Record, Source, read_table
from .words import composed, is_unicode, plural

__all__ = ["MODALITIES", "Label", "Manifest", "Row", "read_manifest"]

_NAMES = {
    "image": ("image", "images", "img", "image_path", "photo", "picture", "frame", "frames"),
    "audio": ("audio", "audio_path", "sound", "clip", "wav", "speech"),
    "text": ("text", "caption", "sentence", "transcript", "claim", "question"),
    "series": ("series", "time_series", "timeseries", "signal", "sensor", "sensors"),
    "label": ("label", "labels", "target", "class", "answer", "y"),
    "split": ("split", "subset", "fold"),
    "group": ("group", "group_id"),
}
_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "series": (".npy",),
}
_LABELLED = ("label", "split", "group")  # roles that prediction has no use for
_SUSPECT = 20  # rows from which on mostly different numbers look like amounts
_SAMPLE = 100  # rows whose cells show what a column holds


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read and checked; no media file was opened."""

    path: Path
    columns: Mapping[str, str]  # role -> column
    ignored: tuple[str, ...]  # columns with no role
    rows: tuple[Row, ...]
    kind: str = "multiclass"  # one of config.KINDS: as given, or as the labels look
    skipped: tuple[tuple[str, str], ...] = ()  # (where, error) of rows that were left out
    missing: tuple[str, ...] = ()  # modalities that some row lacks, sorted
    warnings: tuple[str, ...] = ()  # a line each, to be shown
    root: Path = Path()  # the folder that paths are relative to

    @property
    def modalities(self) -> tuple[str, ...]:
        """The inputs, sorted."""
        return tuple(name for name in MODALITIES if name in self.columns)

    @property
    def stream(self) -> bool:
        """Rows are sequences of steps."""
        return bool(self.rows) and self.rows[0].stream

    @property
    def per_step(self) -> bool:
        """Every step has its own label."""
        return self.kind == "steps"

    @property
    def labelled(self) -> bool:
        """Rows have labels."""
        return "label" in self.columns


def read_manifest(
    source: Source,
    columns: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] | None = None,
    *,
    kind: str | None = None,
    labelled: bool = True,
    on_bad_row: str = "error",
) -> Manifest:
    """Read a CSV, JSONL or Parquet manifest, or a DataFrame.

    Args:
        source: a file, whose ending says what it is, or a DataFrame.
        columns: role (image, audio, text, series, label, split, group) -> column, where inference
            is not wanted.
        root: the folder that paths are relative to and stay inside; by default the manifest's own,
            for a DataFrame the current one.
        kind: one of config.KINDS; by default what the labels look like (kinds.infer_kind).
        labelled: False for prediction: label, split and group are not read, even if named.
        on_bad_row: "error", or "skip": leave out rows that cannot be used, and list them.

    Raises:
        ManifestError: naming the table, the row and what to do.
        ConfigError: an unknown kind, role or on_bad_row.
    """
    check_kind(kind)
    bad = BadRows(on_bad_row)
    named = {role: composed(name.strip()) for role, name in (columns or {}).items()}
    unknown = sorted(set(named) - set(_NAMES))
    if unknown:
        raise ConfigError(f"columns play the roles {', '.join(_NAMES)}; not {unknown[0]!r}")
    if not labelled:
        named = {role: name for role, name in named.items() if role not in _LABELLED}
    table = read_table(source, set(named.values()))
    path = table.path
    sample = _sample(record for _, record in table.records)
    roles = _roles(path, table.names, sample, named, labelled)
    base = Path(os.path.realpath(root if root is not None else path.parent))
    if not is_unicode(str(base)):
        raise ManifestError(f"{str(base)!r}: the folder's name is not Unicode; rename it")
    modalities = tuple(name for name in MODALITIES if name in roles)
    reader = RowReader(path, base, roles, modalities)
    rows: list[Row] = []
    for where, record in table.records:
        with bad.row(where):
            if isinstance(record, ManifestError):
                raise record
            rows.append(reader.read(where, record))
    kind = kind or infer_kind([row.label for row in rows] if labelled else [])
    rows = _settled(path, roles, rows, kind, bad)
    if labelled and not rows:
        raise ManifestError(f"{path}: no row can be used; the first: {bad.listed[0][1]}")
    missing = tuple(name for name in modalities if not all(row.has(name) for row in rows))
    ignored = tuple(name for name in table.names if name not in roles.values())
    if "split" in roles and "group" in roles:
        _check_groups(path, rows)
    warnings = (*crossing_files(rows, base), *crossing_contents(rows))
    hint = regression_hint(kind, [row.label for row in rows]) if labelled else ""
    if hint and len(rows) > _SUSPECT:
        warnings = (*warnings, hint)
    return Manifest(
        path, roles, ignored, tuple(rows), kind, tuple(bad.listed), missing, warnings, base
    )


def _sample(records: Iterable[Record | ManifestError]) -> dict[str, Any]:
    """The first filled cell of each column."""
    sample: dict[str, Any] = {}
    for record in islice(records, _SAMPLE):
        if isinstance(record, dict):
            for name, cell in record.items():
                if isinstance(cell, (str, list)) and cell:
                    sample.setdefault(name, cell)
    return sample


def _roles(
    path: Path,
    names: tuple[str, ...],
    sample: Mapping[str, Any],
    named: dict[str, str],
    labelled: bool,
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
        if role in named or (role in _LABELLED and not labelled):
            continue
        free = [name for name in names if name not in named.values()]
        matches = [name for name in free if name.lower() in synonyms]
        if not matches and role in _ENDINGS:
            matches = [name for name in free if _ends(sample.get(name), _ENDINGS[role])]
        if len(matches) > 1:
            raise ManifestError(
                f"{path}: the columns {', '.join(matches)} could each be the {role}; "
                f"say which with --{role} NAME"
            )
        if matches:
            found[role] = matches[0]
    if labelled and "label" not in found:
        raise ManifestError(
            f"{path}: no column is the label (it has {listed}); say which with --label NAME"
        )
    if not set(found) & set(MODALITIES):
        raise ManifestError(
            f"{path}: no column is an image, an audio file, a text or a series (it has {listed}); "
            "say which with --image, --audio, --text or --series NAME"
        )
    return found


def _ends(value: Any, endings: tuple[str, ...]) -> bool:
    text = value[0] if isinstance(value, list) and value else value
    return isinstance(text, str) and text.strip().rstrip('"]').lower().endswith(endings)


def _settled(
    path: Path, roles: Mapping[str, str], rows: list[Row], kind: str, bad: BadRows
) -> list[Row]:
    """The rows with labels in the kind's form, alike in being streams: the first says how."""
    first = next((row for row in rows if row.images), None)
    settled = []
    for row in rows:
        with bad.row(row.where):
            if first is not None and row.images and row.stream != first.stream:
                raise ManifestError(
                    f"{path}, {row.where}: one image here and a list of images on {first.where}, "
                    "or the reverse; write a list in every row, of one image if need be"
                )
            stream = kind == "steps" or (first is not None and first.stream)
            row = replace(row, stream=stream)
            if "label" in roles:
                row = _labelled(path, roles["label"], row, kind)
            settled.append(row)
    return settled


def _labelled(path: Path, column: str, row: Row, kind: str) -> Row:
    try:
        row = replace(row, label=settle(row.label, kind), per_step=kind == "steps")
        if row.per_step and len(row.label) != row.steps:
            raise FusionError(
                f"{plural(len(row.label), 'label')} for {plural(row.steps, 'image')}; give one a "
                "step, or null"
            )
    except FusionError as error:
        raise ManifestError(
            f"{path}, {row.where}, column {column!r}: {error} (the labels' kind is {kind})"
        ) from None
    return row


def _check_groups(path: Path, rows: Iterable[Row]) -> None:
    parted = crossing_group(rows)
    if parted is not None:
        one, other = parted
        raise ManifestError(
            f"{path}: the group {one.group!r} is in {one.split} ({one.where}) and in {other.split} "
            f"({other.where}); mend the split column, or do without it or without the group"
        )
