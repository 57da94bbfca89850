"""The commands of `fastrnn`: fit, evaluate, predict, explain, export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from ..errors import FusionError, reason
from .fit import fit
from .judging import evaluate, explain, export, predict

app = typer.Typer(
    help="Train a model that fuses images, audio, text and numeric series with a recurrent layer.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for _command in (fit, evaluate, predict, explain, export):
    app.command()(_command)


# The base of typer's usage errors; its import path depends on typer's version.
_UsageError: Any = typer.BadParameter.__base__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. An error of the user is printed in one line."""
    arguments = None if argv is None else list(argv)
    try:
        return app(args=arguments, prog_name="fastrnn", standalone_mode=False) or 0
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    except typer.Abort:
        return _stop("aborted", 1)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "fastrnn"
        message = error.format_message().rstrip(".").replace("Value error, ", "")
        return _stop(f"error: {message}; see {command} --help")
    except FusionError as error:
        return _stop(f"error: {error}")
    except OSError as error:
        return _stop(f"error: {reason(error)}")
    except MemoryError:
        return _stop("error: out of memory; make the network, the batch or the files smaller")


def _stop(text: str, code: int = 2) -> int:
    print(" ".join(text.splitlines()), file=sys.stderr)
    return code
