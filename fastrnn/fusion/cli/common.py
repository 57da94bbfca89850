"""Helpers that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.inputs import input_of, override
from ..errors import ConfigError
from .config_flags import named_columns
from .options import OnBadRow

if TYPE_CHECKING:
    from ..data.manifest import Manifest


def is_main_process() -> bool:
    """Whether this process writes and prints: the only one, or the first of torchrun."""
    return int(os.environ.get("RANK", 0)) == 0


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None keeps PyTorch's default."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def evaluation_table(
    run: Path,
    manifest: Path | None,
    root: Path | None,
    values: Mapping[str, Any],
    on_bad_row: OnBadRow | None,
) -> Manifest | None:
    """Read the table to evaluate a run on, with the run's columns; None for the run's own table.

    Raises:
        FusionError: the folder contains no run, the table cannot be read, or its options are given
            without a table.
    """
    from .. import checkpoint
    from ..data.bad_rows import SKIPPED
    from ..data.manifest import read_manifest
    from ..data.roles import LABELLED

    config, _ = checkpoint.read_config(run)
    note_unfinished(run)
    named = named_columns(values)
    wanted = on_bad_row.value if on_bad_row else "error"
    if manifest is None:
        if named or root:
            raise ConfigError("columns and --root need a MANIFEST; give it after RUN")
        return None
    own = bool(config.manifest) and os.path.realpath(manifest) == os.path.realpath(config.manifest)
    if own and on_bad_row is None and (run / SKIPPED).is_file():
        wanted = "skip"  # as in the run
    read = (*config.model.modalities, "label")
    columns = {role: name for role, name in config.columns.items() if input_of(role) in read}
    return read_manifest(
        manifest,
        override(columns, named),
        root,
        problem_type=config.model.problem_type,
        on_bad_row=wanted,
        infer=LABELLED,
    )


def note_unfinished(run: Path) -> None:
    """Print how to resume a run that has its main model but not yet all baselines."""
    from .. import run_lock

    unfinished = run_lock.unfinished(run)
    if unfinished:
        print(f"note: {unfinished}", file=sys.stderr)


def new_folder(name: str) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, runs/NAME-3, ... that does not exist."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
