"""Load the rows that a finished run is evaluated on, decoded like its training rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from .. import checkpoint, files
from ..config.parser import Range, parse
from ..config.schema import RunConfig
from ..data.manifest import Manifest, read_manifest
from ..data.processor import Examples, Preprocessor
from ..errors import ConfigError
from ..strings import plural

SPLIT = "split.json"
_SKIPPED = "skipped.jsonl"
_OF_SPLITTING = ("split", "group")


@dataclass(frozen=True)
class Rows:
    """Decoded rows and their origin."""

    config: RunConfig
    preprocessor: Preprocessor
    split: str  # train, val, test, or "all rows"
    manifest: str  # the table that they come from
    where: list[str]  # the position of each row in the manifest
    examples: Examples
    val: Examples | None  # the run's own validation rows, if they are other rows
    skipped: list[dict[str, str]]  # rows that could not be used: where, error


def run_rows(
    folder: Path,
    manifest: Any = None,
    split: str = "test",
    *,
    on_bad_row: str | None = None,
    num_workers: int = 0,
) -> Rows:
    """Load the rows to evaluate a run on.

    Args:
        folder: the run's folder.
        manifest: a path, a DataFrame or a Manifest; None for the run's own table. From the run's
            own table only the rows of `split` are used, so that it is not evaluated on its training
            rows. From another table, the rows of `split` in its split column are used, or all rows.
        split: the split to load; val if the run's own table has no such rows.
        on_bad_row: "error" or "skip". Defaults to the run's own setting for its own table, else to
            "error".
        num_workers: the number of processes that decode files.

    Raises:
        ConfigError: the run's own table is unknown, has changed, or has no such rows.
        DataError: a row cannot be used.
    """
    _, preprocessor, config = checkpoint.load(folder)
    home = _Home(folder, config)
    given = manifest.path if isinstance(manifest, Manifest) else manifest
    own = manifest is None or home.has(given)
    if own:
        table = manifest if isinstance(manifest, Manifest) else home.table(on_bad_row)
        parts = home.parts(table)
        split = split if parts.get(split) else "val"
        chosen = parts.get(split, [])
        if not chosen:
            raise ConfigError(f"{folder}: {SPLIT} has no {split} rows; give a manifest")
        if max(chosen) >= len(table.rows):
            raise ConfigError(
                f"{folder}: {SPLIT} refers to row {max(chosen)}, but {table.path} has only "
                f"{plural(len(table.rows), 'row')}; restore the table, or give a manifest"
            )
    else:
        table = manifest if isinstance(manifest, Manifest) else _other(manifest, config, on_bad_row)
        chosen = [number for number, row in enumerate(table.rows) if row.split == split]
        split = split if chosen else "all rows"
        chosen = chosen or list(range(len(table.rows)))
    on_bad_row = home.on_bad_row(on_bad_row) if own else on_bad_row or "error"
    examples = preprocessor.load(table, chosen, on_bad_row=on_bad_row, num_workers=num_workers)
    skipped = [*table.skipped, *examples.skipped]
    return Rows(
        config,
        preprocessor,
        split,
        str(table.path),
        [table.rows[number].where for number in examples.rows],
        examples,
        None if own and split == "val" else home.val(preprocessor, num_workers),
        [{"where": where, "error": error} for where, error in skipped],
    )


def read_split(path: Path) -> dict[str, list[int]]:
    """Read the row numbers of each split of a run's table.

    Raises:
        ConfigError: the file is damaged.
    """
    value = files.read_json(path)
    try:
        return parse(dict[str, list[Annotated[int, Range(0)]]], value, "the split")
    except ConfigError as error:
        raise ConfigError(f"{path}: damaged: {error}; restore it") from None


@dataclass(frozen=True)
class _Home:
    """The table that a run was trained on."""

    folder: Path
    config: RunConfig

    def has(self, path: Any) -> bool:
        """Whether a path is the path of this table."""
        known = isinstance(path, (str, os.PathLike)) and bool(self.config.manifest)
        return known and os.path.realpath(path) == os.path.realpath(self.config.manifest)

    def on_bad_row(self, wanted: str | None = None) -> str:
        """Return `wanted`, or the run's own setting for rows that cannot be used."""
        return wanted or ("skip" if (self.folder / _SKIPPED).is_file() else "error")

    def table(self, on_bad_row: str | None = None) -> Manifest:
        if not self.config.manifest or not Path(self.config.manifest).is_file():
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
        )

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
        if len(table.rows) != dealt:
            raise ConfigError(
                f"{table.path}: {plural(len(table.rows), 'row')} can be read now, but {dealt} when "
                "the run was trained, so its splits are unknown; restore the table and its "
                "files, or give another manifest"
            )
        return parts

    def val(self, preprocessor: Preprocessor, num_workers: int) -> Examples | None:
        """Load the validation rows, if they still exist and a threshold is tuned on them."""
        if self.config.model.problem_type != "binary":
            return None
        try:
            table = self.table()
            rows = self.parts(table).get("val", [])
        except ConfigError:
            return None
        return preprocessor.load(table, rows, on_bad_row=self.on_bad_row(), num_workers=num_workers)


def _other(source: Any, config: RunConfig, on_bad_row: str | None) -> Manifest:
    """Read another table: columns are named as in training, except its own split and group."""
    columns = {role: name for role, name in config.columns.items() if role not in _OF_SPLITTING}
    return read_manifest(
        source, columns, problem_type=config.model.problem_type, on_bad_row=on_bad_row or "error"
    )
