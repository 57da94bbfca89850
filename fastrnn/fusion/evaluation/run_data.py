"""Load the rows that a finished run is evaluated on, read like its training rows."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import checkpoint
from ..config.schema import RunConfig
from ..data.bad_rows import SKIPPED
from ..data.dataset import FusionDataset, load_dataset
from ..data.loader import check_files
from ..data.manifest import Manifest, read_manifest
from ..data.processor import Processor
from ..data.readers import Source, is_stored
from ..data.roles import LABELLED
from ..data.splits import SPLIT, read_split
from ..data.storage import as_path
from ..errors import ConfigError
from ..strings import plural

_OF_SPLITTING = ("split", "group")


@dataclass(frozen=True)
class RunRows:
    """Rows to evaluate a run on, and their origin.

    Attributes:
        split: train, val, test, or "all rows".
        manifest: the table that they come from.
        val: the run's own validation rows, if they are other rows and a threshold is tuned.
        skipped: (where, error) of the rows that could not be used.
        own: whether the table is the one that the run was trained on.
    """

    config: RunConfig
    dataset: FusionDataset
    split: str
    manifest: str
    val: FusionDataset | None
    skipped: list[dict[str, str]]
    own: bool

    @property
    def processor(self) -> Processor:
        """The processor of the run."""
        return self.dataset.processor


def run_rows(
    folder: Path,
    manifest: Any = None,
    split: str = "test",
    *,
    on_bad_row: str | None = None,
    num_workers: int = 0,
) -> RunRows:
    """Load the rows to evaluate a run on.

    Args:
        folder: the run's folder.
        manifest: a table or a Manifest; None for the run's own table. From the run's own table only
            the rows of `split` are used, so that it is not evaluated on its training rows. From
            another table, the rows of `split` in its split column are used, or all rows.
        split: the split to load; val if the run's own table has no such rows.
        on_bad_row: "error" or "skip". Defaults to the run's own setting for its own table, else to
            "error".
        num_workers: the number of processes that decode files.

    Raises:
        ConfigError: the run's own table is unknown, has changed, or has no such rows.
        DataError: a row cannot be used.
    """
    config, processor = checkpoint.read_config(folder)
    home = _Home(folder, config, processor, num_workers)
    given = manifest.path if isinstance(manifest, Manifest) else manifest
    own = manifest is None or home.has(given)
    if own:
        table = manifest if isinstance(manifest, Manifest) else home.table(on_bad_row)
        split, chosen = home.rows_of(table, split)
    else:
        table = manifest if isinstance(manifest, Manifest) else _other(manifest, config, on_bad_row)
        there = enumerate(table.table["split"].to_pylist())
        chosen = [number for number, name in there if name == split]
        split = split if chosen else "all rows"
        chosen = chosen or list(range(len(table)))
    on_bad_row = home.on_bad_row(on_bad_row) if own else on_bad_row or "error"
    dataset = home.load(table, chosen, on_bad_row)
    skipped = [*table.skipped, *dataset.skipped]
    return RunRows(
        config,
        dataset,
        split,
        str(table.path),
        None if own and split == "val" else home.val(),
        [{"where": where, "error": error} for where, error in skipped],
        own,
    )


@dataclass(frozen=True)
class _Home:
    """The table that a run was trained on."""

    folder: Path
    config: RunConfig
    processor: Processor
    num_workers: int

    def has(self, path: Any) -> bool:
        """Whether a path is the path of this table."""
        known = isinstance(path, (str, os.PathLike)) and bool(self.config.manifest)
        return known and os.path.realpath(path) == os.path.realpath(self.config.manifest)

    def on_bad_row(self, wanted: str | None = None) -> str:
        """Return `wanted`, or the run's own setting for rows that cannot be used."""
        return wanted or ("skip" if (self.folder / SKIPPED).is_file() else "error")

    def load(self, table: Manifest, rows: list[int], on_bad_row: str) -> FusionDataset:
        """Load rows. They are read many times, so their files are kept in memory."""
        return _load(table, self.processor, rows, on_bad_row, self.num_workers)

    def table(self, on_bad_row: str | None = None) -> Manifest:
        if not self.config.manifest or not is_stored(as_path(self.config.manifest)):
            raise ConfigError(
                f"{self.folder}: the table that the run was trained on is unknown or no longer "
                "exists; give a manifest"
            )
        return read_manifest(
            self.config.manifest,
            dict(self.config.columns),
            self.config.root or None,
            problem_type=self.config.model.problem_type,
            on_bad_row=self.on_bad_row(on_bad_row),
            infer=(),
        )

    def rows_of(self, table: Manifest, split: str) -> tuple[str, list[int]]:
        """Return the split, or val if it has no rows, and the numbers of its rows."""
        parts = self.parts(table)
        split = split if parts.get(split) else "val"
        chosen = parts.get(split, [])
        if not chosen:
            raise ConfigError(f"{self.folder}: {SPLIT} has no {split} rows; give a manifest")
        if max(chosen) >= len(table):
            raise ConfigError(
                f"{self.folder}: {SPLIT} refers to row {max(chosen)}, but {table.path} has only "
                f"{plural(len(table), 'row')}; restore the table, or give a manifest"
            )
        return split, chosen

    def parts(self, table: Manifest) -> dict[str, list[int]]:
        """Return the row numbers of each split.

        Raises:
            ConfigError: they are unknown, or the rows of the table have changed.
        """
        path = self.folder / SPLIT
        if not path.is_file():
            raise ConfigError(f"{self.folder}: there is no {SPLIT}; give a manifest to evaluate on")
        parts = read_split(path)
        dealt = sum(map(len, parts.values()))
        if len(table) != dealt:
            raise ConfigError(
                f"{table.path}: {plural(len(table), 'row')} can be read now, but {dealt} when "
                "the run was trained, so its splits are unknown; restore the table and its "
                "files, or give another manifest"
            )
        return parts

    def val(self) -> FusionDataset | None:
        """Load the validation rows, if they still exist and a threshold is tuned on them."""
        if not self.processor.task.has_threshold:
            return None
        try:
            table = self.table()
            rows = self.parts(table).get("val", [])
        except ConfigError:
            return None
        return self.load(table, rows, self.on_bad_row())


def labelled_rows(
    source: Source,
    config: RunConfig,
    processor: Processor,
    root: str | os.PathLike[str] | None = None,
    *,
    on_bad_row: str = "error",
    num_workers: int = 0,
) -> FusionDataset:
    """Load all rows of a table to evaluate a model on; columns are named as in training.

    Returns:
        The rows. `skipped` also lists those whose cells cannot be used.

    Raises:
        DataError: the table or a row cannot be used.
    """
    table = _other(source, config, on_bad_row, root)
    dataset = _load(table, processor, None, on_bad_row, num_workers)
    return replace(dataset, skipped=(*table.skipped, *dataset.skipped))


def _load(
    table: Manifest,
    processor: Processor,
    rows: list[int] | None,
    on_bad_row: str,
    num_workers: int,
) -> FusionDataset:
    dataset = load_dataset(table, processor, rows, on_bad_row=on_bad_row, cache="memory")
    return check_files(dataset, "skip", num_workers) if on_bad_row == "skip" else dataset


def _other(
    source: Source,
    config: RunConfig,
    on_bad_row: str | None,
    root: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Read another table: columns are named as in training, except its own split and group."""
    columns = {role: name for role, name in config.columns.items() if role not in _OF_SPLITTING}
    return read_manifest(
        source,
        columns,
        root,
        problem_type=config.model.problem_type,
        on_bad_row=on_bad_row or "error",
        infer=LABELLED,
    )
