"""The rows that a finished run is judged on, decoded as the run decodes them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import checkpoint
from .config import RunConfig
from .data import Examples, Preprocessor
from .errors import ConfigError
from .manifest import Manifest, read_manifest

SPLIT = "split.json"


@dataclass(frozen=True)
class Rows:
    """Decoded rows, and how to name them."""

    config: RunConfig
    preprocessor: Preprocessor
    split: str  # train, val, test, or "all rows"
    manifest: str  # where they come from
    where: list[str]  # of each row, its place in the manifest
    examples: Examples
    val: Examples | None = None  # the run's own validation rows, where they are other rows
    skipped: list[dict[str, str]] = field(default_factory=list)  # rows that could not be read


def run_rows(folder: Path, manifest: Any = None, split: str = "test", **reading: Any) -> Rows:
    """Read what a run is to be judged on.

    Args:
        manifest: a path, a DataFrame or a Manifest; None for the run's own. Of the run's own table
            only the rows of `split` are taken, so that nothing is judged on what it was trained
            on; of another table the rows of its split column, or all.

    Raises:
        ConfigError: the run's own table is not known, or has no such rows.
    """
    _, preprocessor, config = checkpoint.load(folder)
    own = _own(config)
    parts = _parts(folder)
    path = manifest.path if isinstance(manifest, Manifest) else manifest
    is_own = manifest is None or (
        own is not None and isinstance(path, (str, os.PathLike)) and _same(path, own)
    )
    if manifest is None and own is None:
        raise ConfigError(
            f"{folder}: config.json does not say what table the run was trained on, or it is "
            "gone; give a manifest"
        )
    if isinstance(manifest, Manifest):
        table = manifest
    else:
        root = config.root if is_own and config.root else None
        table = read_manifest(own if manifest is None else manifest, dict(config.columns), root)
    if is_own and parts is None:
        raise ConfigError(f"{folder}: there is no {SPLIT}; give a manifest of rows to judge on")
    val = None
    if is_own and parts is not None:
        split = split if parts.get(split) else "val"
        chosen = parts[split]
        if split != "val" and parts.get("val"):
            val = preprocessor.load(table, parts["val"])
    else:
        chosen = [number for number, row in enumerate(table.rows) if row.split == split]
        split = split if chosen else "all rows"
        chosen = chosen or list(range(len(table.rows)))
        if own is not None and parts is not None and parts.get("val"):
            source = read_manifest(own, dict(config.columns), config.root or None)
            val = preprocessor.load(source, parts["val"])
    examples = preprocessor.load(table, chosen, **reading)
    where = [table.rows[number].where for number in chosen]
    return Rows(config, preprocessor, split, str(table.path), where, examples, val)


def _own(config: RunConfig) -> Path | None:
    return Path(config.manifest) if config.manifest and Path(config.manifest).is_file() else None


def _parts(folder: Path) -> dict[str, list[int]] | None:
    if not (folder / SPLIT).is_file():
        return None
    return json.loads((folder / SPLIT).read_text(encoding="utf-8"))


def _same(a: str | os.PathLike[str], b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
