"""The flags that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..config.options import as_tuple
from ..data.storage import RemotePath, as_path
from ..errors import ConfigError
from ..strings import is_unicode


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
    if "://" in text:
        raise typer.BadParameter(
            f"{text} is a URL; only the table and --root may be remote: give a local path"
        )
    return Path(text)


def location(text: str | Path) -> Path:
    """Parse a path, or a URL that fsspec reads.

    Raises:
        typer.BadParameter: as for `path`, or the protocol cannot be read.
    """
    try:
        found = as_path(str(text))
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return found if isinstance(found, RemotePath) else path(str(text).removeprefix("file://"))


TABLE = "A CSV, JSONL or Parquet file, or shards (.tar); a path or a URL."
RunFolder = Annotated[
    Path,
    typer.Argument(parser=path, metavar="RUN", help="The folder of a run.", show_default=False),
]
Manifest = Annotated[
    Path,
    typer.Argument(
        parser=location,
        metavar="MANIFEST",
        help=TABLE,
        show_default=False,
    ),
]
OptionalManifest = Annotated[
    Path | None,
    typer.Argument(
        parser=location,
        metavar="[MANIFEST]",
        help=f"{TABLE[:-1]}; the training table by default.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        parser=location,
        metavar="FOLDER",
        help="Paths are relative to this folder and must stay inside; default: the manifest's.",
        rich_help_panel="Columns",
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FOLDER",
        help="Where to save the run; a new folder under runs/ by default.",
    ),
]
SplitPart = Annotated[
    Part,
    typer.Option(
        "--part",
        help="Split to evaluate; a MANIFEST without rows of it is used whole.",
    ),
]
BadRows = Annotated[
    OnBadRow,
    typer.Option(help="error: stop at a row that cannot be used; skip: continue without it."),
]
BadRowsOfRun = Annotated[
    OnBadRow | None,
    typer.Option(help="As for fit; default: as in the run, or error for another table."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, mps, ...; auto is a GPU if there is one, else the CPU.",
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Rows per forward pass of the network.")
]
NumWorkers = Annotated[
    int,
    typer.Option(
        min=0, max=1024, help="Processes that decode files; 0: decode in the main process."
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads; PyTorch's default if not given.")
]


def _imported(text: str | None) -> str | None:
    """Import the encoders that the user names; a run's folder alone must not cause an import."""
    if text:
        from ..models.imported import import_encoders

        import_encoders(dict(as_tuple("encoders", text)))
    return text


Encoders = Annotated[
    str | None,
    typer.Option(
        callback=_imported,
        metavar="IMAGE=PACKAGE.MODULE:CLASS",
        help="Your own encoders that the run uses, which are imported.",
    ),
]
