"""``fastrnn`` and ``python -m fastrnn``: a diagnostic report, and `fastrnn.fusion`'s commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ._version import __version__

USAGE = """\
usage: fastrnn                    list the backends: availability, reasons and speed
       fastrnn COMMAND [OPTIONS]  train a multimodal model (fastrnn.fusion)
       fastrnn --help | --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        from . import info

        return info.main()
    if arguments == ["--version"]:
        print(f"fastrnn {__version__}")
        return 0
    asks_for_help = arguments in (["--help"], ["-h"])
    if asks_for_help:
        print(USAGE, flush=True)
    try:
        from .fusion import cli

        return cli.main(["--help"] if asks_for_help else arguments) or 0
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "fastrnn"):  # our own module: no extra installs it
            raise
        message = (
            f"The commands need {missing}, which is not installed: pip install 'fastrnn[fusion]'"
        )
        print(message, file=sys.stdout if asks_for_help else sys.stderr)
        return 0 if asks_for_help else 2


if __name__ == "__main__":
    sys.exit(main())
