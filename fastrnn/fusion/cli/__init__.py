"""The commands: fit, evaluate, predict, explain, export, demo."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from ..errors import FusionError, reason
from .demos import demo
from .fitting import fit
from .judging import evaluate, explain, export, predict

app = typer.Typer(
    help="Train a model that fuses images, audio, text and numeric series with a recurrent layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for _command in (fit, evaluate, predict, explain, export, demo):
    app.command()(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What the user can mend is said without a traceback."""
    try:
        app(args=None if argv is None else list(argv), prog_name="fastrnn")
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    except FusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        return 2
    return 0
