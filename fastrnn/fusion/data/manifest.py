"""Read a manifest: the table of examples, with the inputs and the label of each row.

    image,audio,text,label
    photos/1.jpg,clips/1.wav,a dog barks,yes
    photos/2.jpg,,a cat sleeps,no

A manifest is CSV with a header, JSONL with one object per line (both UTF-8), Parquet, a pandas
DataFrame, a pyarrow.Table or a datasets.Dataset. Columns are found by name (`image`, `audio`,
`text`, `series`, `label`, `split`, `group` and common synonyms) or by the extension of their files;
the caller can name any of them (roles.py). There may be several columns of a modality. Paths are
relative to the manifest's folder (without a file, to the current folder) and must stay inside it.
An empty input cell means that the row lacks this input.

A `series` cell is a JSON list of numbers, a JSON list with one list of numbers per step, or the
path of a .csv or .npy file.

Columns of numbers, categories and dates are one input, tabular (tabular.py).

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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from ..config.inputs import Columns, input_of, inputs_of, listed
from ..errors import ManifestError
from ..strings import is_unicode
from ..tasks import Label, Task, task_of
from ..tasks.labels import regression_hint
from .bad_rows import BadRows
from .columns import ManifestBuilder, Rows
from .groups import crossing_contents, crossing_files, crossing_group
from .readers import Source, open_table
from .roles import LABELLED, NAMES, check_roles, find_roles
from .rows import RowReader
from .storage import real_folder

_WIDTH = 24  # to which the names of columns are padded
_SUSPECT = 20  # with more rows than this, mostly different numbers look like amounts


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been read and checked. No media file has been opened.

    The rows are an Arrow table (see columns.py), which takes a few dozen bytes a row in addition to
    the texts and paths. `rows[number]` makes a Row of one.
    """

    path: Path
    columns: Mapping[str, str]  # input (config/inputs.py) or role -> column
    ignored: tuple[str, ...]  # columns with no role
    table: pa.Table
    problem_type: str = "multiclass"  # as given, or as inferred from the labels
    stream: bool = False  # rows are sequences of steps
    skipped: tuple[tuple[str, str], ...] = ()  # (where, error) of skipped rows
    warnings: tuple[str, ...] = ()  # one line each, to be shown to the user
    root: Path = field(default_factory=Path)  # the folder that paths are relative to
    reasons: Mapping[str, str] = field(default_factory=dict)  # column -> why it has its role

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
        """The names of the inputs, sorted."""
        return inputs_of(self.columns)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """The inputs that some row lacks, sorted."""
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
    columns: Columns | None = None,
    root: str | os.PathLike[str] | None = None,
    *,
    problem_type: str | None = None,
    labelled: bool = True,
    on_bad_row: str = "error",
    infer: Collection[str] = tuple(NAMES),
    ignore: str | Sequence[str] = (),
) -> Manifest:
    """Read a CSV, JSONL or Parquet manifest, a DataFrame, an Arrow table or a dataset.

    Args:
        source: a DataFrame, a pyarrow.Table, a datasets.Dataset, or a file with the extension of
            its format.
        columns: role (image, audio, text, series, tabular, label, split, group) -> column, or for
            the first five several columns: ["front", "back"] or "front,back". It overrides
            inference. An input may be named instead, as in {"image:front": "photo"}.
        root: the folder that paths are relative to and must stay inside. Defaults to the manifest's
            folder, and to the current one if there is no file.
        problem_type: one of tasks.TASKS. By default it is inferred from the labels
            (labels.infer_problem_type).
        labelled: False for prediction: label, split and group are not read, even if named.
        on_bad_row: "error", or "skip" to leave out rows that cannot be used and list them.
        infer: the roles that are inferred if they are not named.
        ignore: columns that have no role unless they are named.

    Raises:
        ManifestError: the table or a row cannot be used; the message says where and what to do.
        ConfigError: an unknown problem_type, role or on_bad_row.
    """
    if problem_type is not None:
        task_of(problem_type)
    named = dict(columns or {})
    check_roles(named)
    if not labelled:
        named = {role: name for role, name in named.items() if role not in LABELLED}
        infer = set(infer) - set(LABELLED)
    table = open_table(source, {each for value in named.values() for each in listed(value)})
    roles = find_roles(table, named, infer, ignore)
    bad = BadRows(on_bad_row)
    builder = ManifestBuilder(make_reader(table.path, root, roles.columns), bad)
    builder.extend(table.records())
    if not len(builder) and not bad.listed:
        raise ManifestError(f"{table.path}: the table has no rows; add one row per example")
    found, problem_type, stream = builder.finish(problem_type)
    pa.default_memory_pool().release_unused()  # the batches that became this table
    if labelled and not found.num_rows:
        raise ManifestError(
            f"{table.path}: no row can be used; the first error: {bad.listed[0][1]}"
        )
    used = set(roles.columns.values())
    manifest = Manifest(
        path=table.path,
        columns=roles.columns,
        ignored=tuple(name for name in table.names if name not in used),
        table=found,
        problem_type=problem_type,
        stream=stream,
        skipped=tuple(bad.listed),
        root=builder.reader.root,
        reasons=roles.reasons,
    )
    return replace(manifest, warnings=(*roles.warnings, *_warnings(manifest)))


def described_columns(manifest: Manifest) -> list[str]:
    """Return a line for each column: its role, and why, as in "age: tabular, numbers"."""
    roles = {column: role for role, column in manifest.columns.items()}
    roles |= dict.fromkeys(manifest.ignored, "ignored")
    names = dict.fromkeys((*manifest.reasons, *roles))  # in the order of the table
    shown = {name: input_of(roles[name]) for name in names}
    width = max(map(len, shown), default=0) + 1
    return [
        f"{name + ':':{min(width, _WIDTH)}} {role}"
        + (f", {manifest.reasons[name]}" if name in manifest.reasons else "")
        for name, role in shown.items()
    ]


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
    return RowReader(path, base, roles)


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
