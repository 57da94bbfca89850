"""The commands of `fastrnn`: fit, evaluate, predict, explain, export."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ..config.renamed import RENAMED, RenamedOptionWarning, warn
from ..errors import FusionError, reason
from . import evaluate, explain, export, fit, predict
from .common import is_main_process


def _current_name(flag: str) -> str:
    """Return the name of a flag without its dashes, and warn about an old one."""
    new = RENAMED.get(flag)
    if new is None:
        return flag
    new = new.replace("_", "-")
    warn(f"--{flag}", f"--{new}")
    return new


app = typer.Typer(
    help="Train a model that fuses images, audio, text and numeric series with a recurrent layer.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"token_normalize_func": _current_name},
)
for _command in (fit.fit, evaluate.evaluate, predict.predict, explain.explain, export.export):
    app.command()(_command)


# oneDNN keeps up to 1,024 compiled kernels, one for each shape. Nearly every batch of clips has a
# new length, so they would take gigabytes, and few are used again.
_KEPT_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

# The base of typer's usage errors; its import path depends on typer's version.
_UsageError: Any = typer.BadParameter.__base__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. An error of the user is printed in one line."""
    arguments = None if argv is None else list(argv)
    os.environ.setdefault(*_KEPT_KERNELS)
    try:
        with _renamed_options_as_notes():
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


@contextmanager
def _renamed_options_as_notes() -> Iterator[None]:
    """Print a warning about a renamed option as a note, once."""
    printed: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, RenamedOptionWarning):
            show_other(message, category, *where, **more)
        elif is_main_process() and str(message) not in printed:
            printed.add(str(message))
            print(f"note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        show_other = warnings.showwarning
        warnings.showwarning = show
        warnings.simplefilter("always", RenamedOptionWarning)
        yield


def _stop(text: str, code: int = 2) -> int:
    print(" ".join(text.splitlines()), file=sys.stderr)
    return code
