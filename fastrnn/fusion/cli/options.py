"""Flags that several commands share, and helpers for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import options
from ..errors import ConfigError
from ..strings import is_unicode

if TYPE_CHECKING:
    import torch

    from ..data.manifest import Manifest


class OnBadRow(str, Enum):
    """What to do with a row whose file or cell cannot be used."""

    error = "error"
    skip = "skip"


class Part(str, Enum):
    """A split of a run's rows."""

    train = "train"
    val = "val"
    test = "test"


def path(text: str | Path) -> Path:
    """Parse a path on the command line.

    Raises:
        typer.BadParameter: the path is empty, which would be the current folder, or is not UTF-8,
            so that the run's files could not record it.
    """
    text = str(text)
    if not text:
        raise typer.BadParameter("the path is empty; give a path")
    if not is_unicode(text) or "\0" in text:
        raise typer.BadParameter(f"{text!r} is not a UTF-8 path; rename the file")
    return Path(text)


Root = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FOLDER",
        help="Paths are relative to this folder and must stay inside; default: the manifest's.",
        rich_help_panel="Columns",
    ),
]
BadRow = Annotated[
    OnBadRow,
    typer.Option(help="error: stop at a row that cannot be used; skip: continue without it."),
]
BadRowAgain = Annotated[
    OnBadRow | None,
    typer.Option(help="As for fit; default: as in the run, or error for another table."),
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, max=1024, help="Processes that decode files; 0: decode in the main process."
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads; PyTorch's default if not given.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FOLDER",
        help="Where to save the run; a new folder under runs/ by default.",
    ),
]
OfPart = Annotated[
    Part,
    typer.Option(
        "--part",
        help="Split to evaluate; a MANIFEST without rows of it is used whole.",
    ),
]
RunFolder = Annotated[
    Path,
    typer.Argument(parser=path, metavar="RUN", help="The folder of a run.", show_default=False),
]
Table = Annotated[
    Path | None,
    typer.Argument(
        parser=path,
        metavar="[MANIFEST]",
        help="A CSV, JSONL or Parquet file; the training table by default.",
        show_default=False,
    ),
]


def leads() -> bool:
    """Whether this process writes and prints: the only one, or the first of torchrun."""
    return int(os.environ.get("RANK", 0)) == 0


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None keeps PyTorch's default."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_columns(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns named on the command line, role -> column."""
    return {role: values[role] for role in options.COLUMNS if values.get(role) is not None}


def judged_table(
    run: Path,
    manifest: Path | None,
    root: Path | None,
    values: Mapping[str, Any],
    bad: OnBadRow | None,
) -> Manifest | None:
    """Read the table to evaluate a run on, with the run's columns; None for the run's own table.

    Raises:
        FusionError: the folder contains no run, the table cannot be read, or its options are given
            without a table.
    """
    from .. import checkpoint
    from ..data.manifest import read_manifest

    _, _, config = checkpoint.load(run)
    note_unfinished(run)
    named = named_columns(values)
    if manifest is None:
        if named or root:
            raise ConfigError("columns and --root need a MANIFEST; give it after RUN")
        return None
    read = (*config.model.modalities, "label")
    columns = {role: name for role, name in config.columns.items() if role in read}
    return read_manifest(
        manifest,
        columns | named,
        root,
        problem_type=config.model.problem_type,
        on_bad_row=bad.value if bad else "error",
    )


def note_unfinished(run: Path) -> None:
    """Print how to resume a run that has its main model but not yet all baselines."""
    from ..training import state as resume

    unfinished = resume.unfinished(run)
    if unfinished:
        print(f"note: {unfinished}", file=sys.stderr)


def new_folder(name: str) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, runs/NAME-3, ... that does not exist."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
