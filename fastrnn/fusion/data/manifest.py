"""Read a manifest: the table of examples, with the inputs and the label of each row.

    image,audio,text,label
    photos/1.jpg,clips/1.wav,a dog barks,yes
    photos/2.jpg,,a cat sleeps,no

A manifest is CSV with a header, JSONL with one object per line (both UTF-8), Parquet, or a pandas
DataFrame. Columns are found by name (`image`, `audio`, `text`, `series`, `label`, `split`, `group`
and common synonyms) or by the extension of their files; the caller can name any of them. Paths are
relative to the manifest's folder (for a DataFrame, to the current folder) and must stay inside it.
An empty input cell means that the row lacks this modality.

A `series` cell is a JSON list of numbers, a JSON list with one list of numbers per step, or the
path of a .csv or .npy file.

Labels: a name, a number, several names (`a|b`), or one per step; see kinds.py.

Streams: a row may hold several images, as a JSON list, in any format. Its label may be a list too:

    {"image": ["f/1.png", "f/2.png", "f/3.png"], "audio": "1.wav", "label": [null, "7", "7"]}

A row has one step per image. Its label list has one entry per step, null for a step without a
label. Its one audio file spans the row and is cut into one equal part per step.

A `split` column may say train, val or test. Rows of one `group`, or rows that share a file, stay in
one split (split.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..config.schema import MODALITIES
from ..errors import ConfigError, FusionError, ManifestError
from ..strings import composed, is_unicode, plural
from ..tasks.labels import Label, check_problem_type, infer_problem_type, regression_hint, settle
from .bad_rows import BadRows
from .groups import crossing_contents, crossing_files, crossing_group
from .readers import Record, Source, read_table
from .rows import Row, RowReader

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
_LABELLED = ("label", "split", "group")  # roles that prediction does not need
_SUSPECT = 20  # with more rows than this, mostly different numbers look like amounts
_SAMPLE = 100  # rows that are inspected to find out what a column holds


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been read and checked. No media file has been opened."""

    path: Path
    columns: Mapping[str, str]  # role -> column
    ignored: tuple[str, ...]  # columns with no role
    rows: tuple[Row, ...]
    problem_type: str = (
        "multiclass"  # one of config.PROBLEM_TYPES: as given, or as inferred from the labels
    )
    skipped: tuple[tuple[str, str], ...] = ()  # (where, error) of skipped rows
    missing: tuple[str, ...] = ()  # modalities that some row lacks, sorted
    warnings: tuple[str, ...] = ()  # one line each, to be shown to the user
    root: Path = Path()  # the folder that paths are relative to

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have a column, sorted."""
        return tuple(name for name in MODALITIES if name in self.columns)

    @property
    def stream(self) -> bool:
        """Whether rows are sequences of steps."""
        return bool(self.rows) and self.rows[0].stream

    @property
    def per_step(self) -> bool:
        """Whether every step has its own label."""
        return self.problem_type == "steps"

    @property
    def labelled(self) -> bool:
        """Whether rows have labels."""
        return "label" in self.columns


def read_manifest(
    source: Source,
    columns: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] | None = None,
    *,
    problem_type: str | None = None,
    labelled: bool = True,
    on_bad_row: str = "error",
) -> Manifest:
    """Read a CSV, JSONL or Parquet manifest, or a DataFrame.

    Args:
        source: a DataFrame, or a file with the extension of its format.
        columns: role (image, audio, text, series, label, split, group) -> column; overrides
            inference.
        root: the folder that paths are relative to and must stay inside. Defaults to the manifest's
            folder, for a DataFrame to the current one.
        problem_type: one of config.PROBLEM_TYPES. By default it is inferred from the labels
            (labels.infer_problem_type).
        labelled: False for prediction: label, split and group are not read, even if named.
        on_bad_row: "error", or "skip" to leave out rows that cannot be used and list them.

    Raises:
        ManifestError: the table or a row cannot be used; the message says where and what to do.
        ConfigError: an unknown problem_type, role or on_bad_row.
    """
    check_problem_type(problem_type)
    bad = BadRows(on_bad_row)
    named = {role: composed(name.strip()) for role, name in (columns or {}).items()}
    unknown = sorted(set(named) - set(_NAMES))
    if unknown:
        raise ConfigError(f"unknown role {unknown[0]!r}; the roles are {', '.join(_NAMES)}")
    if not labelled:
        named = {role: name for role, name in named.items() if role not in _LABELLED}
    table = read_table(source, set(named.values()))
    path = table.path
    sample = _sample(record for _, record in table.records)
    roles = _roles(path, table.names, sample, named, labelled)
    base = Path(os.path.realpath(root if root is not None else path.parent))
    if not is_unicode(str(base)):
        raise ManifestError(f"{str(base)!r}: the folder's name is not valid Unicode; rename it")
    modalities = tuple(name for name in MODALITIES if name in roles)
    reader = RowReader(path, base, roles, modalities)
    rows: list[Row] = []
    for where, record in table.records:
        with bad.row(where):
            if isinstance(record, ManifestError):
                raise record
            rows.append(reader.read(where, record))
    problem_type = problem_type or infer_problem_type(
        [row.label for row in rows] if labelled else []
    )
    rows = _settled(path, roles, rows, problem_type, bad)
    if labelled and not rows:
        raise ManifestError(f"{path}: no row can be used; the first error: {bad.listed[0][1]}")
    missing = tuple(name for name in modalities if not all(row.has(name) for row in rows))
    ignored = tuple(name for name in table.names if name not in roles.values())
    if "split" in roles and "group" in roles:
        _check_groups(path, rows)
    warnings = (*crossing_files(rows, base), *crossing_contents(rows))
    hint = regression_hint(problem_type, [row.label for row in rows]) if labelled else ""
    if hint and len(rows) > _SUSPECT:
        warnings = (*warnings, hint)
    return Manifest(
        path, roles, ignored, tuple(rows), problem_type, tuple(bad.listed), missing, warnings, base
    )


def _sample(records: Iterable[Record | ManifestError]) -> dict[str, Any]:
    """Return the first filled cell of each column."""
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
    """Map roles to columns: as named by the user, else by name, else by file extension."""
    listed = ", ".join(names)
    for column in named.values():
        if column not in names:
            raise ManifestError(f"{path}: there is no column {column!r}; the columns are {listed}")
    for column, count in Counter(named.values()).items():
        if count > 1:
            both = " and ".join(role for role, name in named.items() if name == column)
            raise ManifestError(
                f"{path}: the column {column!r} is named for both {both}; name a column for each"
            )
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
                f"choose one with --{role} NAME"
            )
        if matches:
            found[role] = matches[0]
    if labelled and "label" not in found:
        raise ManifestError(
            f"{path}: no label column was found (the columns are {listed}); choose one with "
            "--label NAME"
        )
    if not set(found) & set(MODALITIES):
        raise ManifestError(
            f"{path}: no column of images, audio files, texts or series was found (the columns are "
            f"{listed}); choose one with --image, --audio, --text or --series NAME"
        )
    return found


def _ends(value: Any, endings: tuple[str, ...]) -> bool:
    text = value[0] if isinstance(value, list) and value else value
    return isinstance(text, str) and text.strip().rstrip('"]').lower().endswith(endings)


def _settled(
    path: Path, roles: Mapping[str, str], rows: list[Row], problem_type: str, bad: BadRows
) -> list[Row]:
    """Return the rows with labels in their problem type's form, all streams or all not.

    The first row with images decides.
    """
    first = next((row for row in rows if row.images), None)
    settled = []
    for row in rows:
        with bad.row(row.where):
            if first is not None and row.images and row.stream != first.stream:
                raise ManifestError(
                    f"{path}, {row.where}: this row and {first.where} mix a single image and a "
                    "list of images; write a list in every row, even for one image"
                )
            stream = problem_type == "steps" or (first is not None and first.stream)
            row = replace(row, stream=stream)
            if "label" in roles:
                row = _labelled(path, roles["label"], row, problem_type)
            settled.append(row)
    return settled


def _labelled(path: Path, column: str, row: Row, problem_type: str) -> Row:
    try:
        row = replace(row, label=settle(row.label, problem_type), per_step=problem_type == "steps")
        if row.per_step and len(row.label) != row.steps:
            raise FusionError(
                f"{plural(len(row.label), 'label')} for {plural(row.steps, 'image')}; give one "
                "per step, or null"
            )
    except FusionError as error:
        raise ManifestError(
            f"{path}, {row.where}, column {column!r}: {error} (the problem type is {problem_type})"
        ) from None
    return row


def _check_groups(path: Path, rows: Iterable[Row]) -> None:
    parted = crossing_group(rows)
    if parted is not None:
        one, other = parted
        raise ManifestError(
            f"{path}: the group {one.group!r} is in {one.split} ({one.where}) and in {other.split} "
            f"({other.where}); fix the split column, or omit the split or the group column"
        )
