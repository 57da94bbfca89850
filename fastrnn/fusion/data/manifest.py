"""Read a manifest: the table of examples, with the inputs and the label of each row.

    image,audio,text,label
    photos/1.jpg,clips/1.wav,a dog barks,yes
    photos/2.jpg,,a cat sleeps,no

A manifest is CSV with a header, JSONL with one object per line (both UTF-8), Parquet, a pandas
DataFrame, a pyarrow.Table or a datasets.Dataset. Columns are found by name (`image`, `audio`,
`text`, `series`, `label`, `split`, `group` and common synonyms) or by the extension of their files;
the caller can name any of them. Paths are relative to the manifest's folder (without a file, to the
current folder) and must stay inside it. An empty input cell means that the row lacks this modality.

A `series` cell is a JSON list of numbers, a JSON list with one list of numbers per step, or the
path of a .csv or .npy file.

Labels: a name, a number, several names (`a|b`), or one per step; see tasks/labels.py.

Streams: a row may hold several images, as a JSON list, in any format. Its label may be a list too:

    {"image": ["f/1.png", "f/2.png", "f/3.png"], "audio": "1.wav", "label": [null, "7", "7"]}

A row has one step per image. Its label list has one entry per step, null for a step without a
label. Its one audio file spans the row and is cut into one equal part per step.

A `split` column may say train, val or test. Rows of one `group`, or rows that share a file, stay in
one split (splits.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..config.schema import MODALITIES
from ..errors import ConfigError, ManifestError
from ..strings import composed, is_unicode
from ..tasks import Label, Task, task_of
from ..tasks.labels import regression_hint
from .bad_rows import BadRows
from .columns import ManifestBuilder, Rows
from .groups import crossing_contents, crossing_files, crossing_group
from .readers import Record, Source, Table, open_table
from .rows import RowReader
from .storage import real_folder

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
    """A manifest that has been read and checked. No media file has been opened.

    The rows are an Arrow table (see columns.py), which takes a few dozen bytes a row in addition to
    the texts and paths. `rows[number]` makes a Row of one.
    """

    path: Path
    columns: Mapping[str, str]  # role -> column
    ignored: tuple[str, ...]  # columns with no role
    table: pa.Table
    problem_type: str = "multiclass"  # as given, or as inferred from the labels
    stream: bool = False  # rows are sequences of steps
    skipped: tuple[tuple[str, str], ...] = ()  # (where, error) of skipped rows
    warnings: tuple[str, ...] = ()  # one line each, to be shown to the user
    root: Path = field(default_factory=Path)  # the folder that paths are relative to

    @cached_property
    def rows(self) -> Rows:
        """The rows, made when they are asked for."""
        return Rows(self.table, self.stream, self.labelled and self.task.per_step)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def task(self) -> type[Task]:
        """The class of the problem type."""
        return task_of(self.problem_type)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have a column, sorted."""
        return tuple(name for name in MODALITIES if name in self.columns)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """The modalities that some row lacks, sorted."""
        return tuple(name for name in self.modalities if self.rows.lacking(name).any())

    @property
    def labelled(self) -> bool:
        """Whether rows have labels."""
        return "label" in self.columns

    def labels(self, rows: Iterable[int] | None = None) -> list[Label]:
        """Return the labels of some rows, or of all."""
        column = self.table["label"]
        values = (column if rows is None else column.take(pa.array(rows, pa.int64()))).to_pylist()
        return [each if isinstance(each, str) else tuple(each) for each in values]

    def where(self, row: int) -> str:
        """Return the position of a row in its table, for messages."""
        return self.table["where"][row].as_py()

    def select(self, rows: Sequence[int]) -> Manifest:
        """Return the manifest with only these rows."""
        return replace(self, table=self.table.take(pa.array(rows, pa.int64())).combine_chunks())


def read_manifest(
    source: Source,
    columns: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] | None = None,
    *,
    problem_type: str | None = None,
    labelled: bool = True,
    on_bad_row: str = "error",
) -> Manifest:
    """Read a CSV, JSONL or Parquet manifest, a DataFrame, an Arrow table or a dataset.

    Args:
        source: a DataFrame, a pyarrow.Table, a datasets.Dataset, or a file with the extension of
            its format.
        columns: role (image, audio, text, series, label, split, group) -> column; overrides
            inference.
        root: the folder that paths are relative to and must stay inside. Defaults to the manifest's
            folder, and to the current one if there is no file.
        problem_type: one of tasks.TASKS. By default it is inferred from the labels
            (labels.infer_problem_type).
        labelled: False for prediction: label, split and group are not read, even if named.
        on_bad_row: "error", or "skip" to leave out rows that cannot be used and list them.

    Raises:
        ManifestError: the table or a row cannot be used; the message says where and what to do.
        ConfigError: an unknown problem_type, role or on_bad_row.
    """
    if problem_type is not None:
        task_of(problem_type)
    named = {role: composed(name.strip()) for role, name in (columns or {}).items()}
    unknown = sorted(set(named) - set(_NAMES))
    if unknown:
        raise ConfigError(f"unknown role {unknown[0]!r}; the roles are {', '.join(_NAMES)}")
    if not labelled:
        named = {role: name for role, name in named.items() if role not in _LABELLED}
    table = open_table(source, set(named.values()))
    roles = _roles(table, named, labelled)
    bad = BadRows(on_bad_row)
    builder = ManifestBuilder(make_reader(table.path, root, roles), bad)
    builder.extend(table.records())
    if not len(builder) and not bad.listed:
        raise ManifestError(f"{table.path}: the table has no rows; add one row per example")
    found, problem_type, stream = builder.finish(problem_type)
    pa.default_memory_pool().release_unused()  # the batches that became this table
    if labelled and not found.num_rows:
        raise ManifestError(
            f"{table.path}: no row can be used; the first error: {bad.listed[0][1]}"
        )
    manifest = Manifest(
        path=table.path,
        columns=roles,
        ignored=tuple(name for name in table.names if name not in roles.values()),
        table=found,
        problem_type=problem_type,
        stream=stream,
        skipped=tuple(bad.listed),
        root=builder.reader.root,
    )
    return replace(manifest, warnings=_warnings(manifest))


def make_reader(
    path: Path, root: str | os.PathLike[str] | None, roles: Mapping[str, str]
) -> RowReader:
    """Create the reader of a table's rows. Without `root`, it is the folder of the table.

    Raises:
        ManifestError: the name of the folder is not valid Unicode.
    """
    base = real_folder(root if root is not None else path.parent)
    if not is_unicode(str(base)):
        raise ManifestError(f"{str(base)!r}: the folder's name is not valid Unicode; rename it")
    return RowReader(path, base, roles, tuple(name for name in MODALITIES if name in roles))


def _warnings(manifest: Manifest) -> tuple[str, ...]:
    """Return the warnings about a manifest, and reject groups in two splits."""
    if "split" in manifest.columns and "group" in manifest.columns:
        _check_groups(manifest)
    warnings = (*crossing_files(manifest.rows), *crossing_contents(manifest.rows))
    if manifest.labelled and len(manifest) > _SUSPECT:
        hint = regression_hint(manifest.problem_type, manifest.labels())
        return (*warnings, hint) if hint else warnings
    return warnings


def _check_groups(manifest: Manifest) -> None:
    parted = crossing_group(manifest.rows)
    if parted is not None:
        one, other = parted
        raise ManifestError(
            f"{manifest.path}: the group {one.group!r} is in {one.split} ({one.where}) and in "
            f"{other.split} ({other.where}); fix the split column, or omit the split or the group "
            "column"
        )


def _sample(records: Iterable[tuple[str, Record | ManifestError]]) -> dict[str, Any]:
    """Return the first filled cell of each column."""
    sample: dict[str, Any] = {}
    for _, record in islice(records, _SAMPLE):
        if isinstance(record, dict):
            for name, cell in record.items():
                if isinstance(cell, (str, list)) and cell:
                    sample.setdefault(name, cell)
    return sample


def _roles(table: Table, named: Mapping[str, str], labelled: bool) -> dict[str, str]:
    """Map roles to columns: as named by the user, else by name, else by file extension."""
    path, names = table.path, table.names
    _check_named(table, named)
    sample = _sample(table.records())
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
            f"{path}: no label column was found (the columns are {', '.join(names)}); choose one "
            "with --label NAME"
        )
    if not set(found) & set(MODALITIES):
        raise ManifestError(
            f"{path}: no column of images, audio files, texts or series was found (the columns are "
            f"{', '.join(names)}); choose one with --image, --audio, --text or --series NAME"
        )
    return found


def _check_named(table: Table, named: Mapping[str, str]) -> None:
    path, names = table.path, table.names
    for column in named.values():
        if column not in names:
            raise ManifestError(
                f"{path}: there is no column {column!r}; the columns are {', '.join(names)}"
            )
    for column, count in Counter(named.values()).items():
        if count > 1:
            both = " and ".join(role for role, name in named.items() if name == column)
            raise ManifestError(
                f"{path}: the column {column!r} is named for both {both}; name a column for each"
            )


def _ends(value: Any, endings: tuple[str, ...]) -> bool:
    text = value[0] if isinstance(value, list) and value else value
    return isinstance(text, str) and text.strip().rstrip('"]').lower().endswith(endings)
