"""What the commands have in common: flags, and what is done with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options
from ..errors import ConfigError
from ..words import is_unicode

if TYPE_CHECKING:
    import torch

    from ..manifest import Manifest


class OnBadRow(str, Enum):
    """What becomes of a row whose file or cell cannot be used."""

    error = "error"
    skip = "skip"


class Part(str, Enum):
    """Which rows of a run."""

    train = "train"
    val = "val"
    test = "test"


def path(text: str | Path) -> Path:
    """A path that a command was given.

    Raises:
        typer.BadParameter: it is empty, which would be the current folder, or names no file that
            the run's own files, all UTF-8, could tell of.
    """
    text = str(text)
    if not text:
        raise typer.BadParameter("it is empty; give a path")
    if not is_unicode(text) or "\0" in text:
        raise typer.BadParameter(f"{text!r} is not UTF-8; rename it")
    return Path(text)


Root = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FOLDER",
        help="Paths are relative to it and stay inside; the manifest's by default.",
        rich_help_panel="Columns",
    ),
]
BadRow = Annotated[
    OnBadRow,
    typer.Option(help="A row that cannot be used ends the command, or is left out and listed."),
]
BadRowAgain = Annotated[
    OnBadRow | None, typer.Option(help="As of fit; for the run's own table what it did by default.")
]
Workers = Annotated[
    int, typer.Option(min=0, max=1024, help="Processes that decode files; 0: this one.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads; torch's choice by default.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        parser=path, metavar="FOLDER", help="Where to save; a new folder under runs/ by default."
    ),
]
OfPart = Annotated[
    Part,
    typer.Option(
        "--part",
        help="Which of the run's own rows; of another table its rows of that split, or all.",
    ),
]
RunFolder = Annotated[
    Path,
    typer.Argument(parser=path, metavar="RUN", help="The folder of a fit.", show_default=False),
]
Table = Annotated[
    Path | None,
    typer.Argument(
        parser=path,
        metavar="[MANIFEST]",
        help="A CSV, JSONL or Parquet file; the one trained on by default.",
        show_default=False,
    ),
]


def leads() -> bool:
    """This process is the one that writes and speaks: the only one, or torchrun's first."""
    return int(os.environ.get("RANK", 0)) == 0


def set_threads(threads: int | None) -> None:
    """Use so many threads, or as many as torch chooses."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def device() -> torch.device:
    """The GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_columns(values: Mapping[str, Any]) -> dict[str, str]:
    """Role -> column, of those that were named."""
    return {role: values[role] for role in options.COLUMNS if values.get(role) is not None}


def judged_table(
    run: Path,
    manifest: Path | None,
    root: Path | None,
    values: Mapping[str, Any],
    bad: OnBadRow | None,
) -> Manifest | None:
    """The table to judge a run on, read as the run's own was; None for the run's own.

    Raises:
        FusionError: no run, a table that cannot be read, or its options without a table.
    """
    from .. import checkpoint
    from ..manifest import read_manifest

    _, _, config = checkpoint.load(run)
    note_unfinished(run)
    named = named_columns(values)
    if manifest is None:
        if named or root:
            raise ConfigError("columns and --root are a MANIFEST's; name it after the run")
        return None
    read = (*config.model.modalities, "label")
    columns = {role: name for role, name in config.columns.items() if role in read}
    return read_manifest(
        manifest,
        columns | named,
        root,
        kind=config.model.kind,
        on_bad_row=bad.value if bad else "error",
    )


def note_unfinished(run: Path) -> None:
    """Say of a run that has its model, and not yet all that it is compared with, how to go on."""
    from .. import resume

    unfinished = resume.unfinished(run)
    if unfinished:
        print(f"note: {unfinished}", file=sys.stderr)


def new_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3, ... that is not there."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
