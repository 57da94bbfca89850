"""Generate a synthetic task as PNG and WAV files, train on it, and compare with baselines."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import torch

from fastrnn.fusion.errors import FusionError, reason

from .demos import DEMOS, run_demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a demo and return the exit code; an error of the user is printed in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.multimodal",
        description=__doc__,
        epilog="\n".join(
            textwrap.fill(f"{name}: {demo.about}", 80, subsequent_indent="  ")
            for name, demo in DEMOS.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=DEMOS, help="the demo to run")
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="FOLDER",
        help="where to save the run; a new folder under runs/ by default",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the data, the weights and the order of rows"
    )
    parser.add_argument("--profile", action="store_true", help="also profile a training step")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; more do not help with small tensors"
    )
    given = parser.parse_args(arguments)
    if given.seed < 0:
        parser.error("--seed must be at least 0")
    if given.threads < 1:
        parser.error("--threads must be at least 1")
    torch.set_num_threads(given.threads)
    try:
        folder = given.output_dir or new_folder(given.name)
        run_demo(given.name, folder, given.seed, profile=given.profile)
    except FusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        return 2
    return 0


def new_folder(name: str) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, runs/NAME-3, ... that does not exist."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(folder for each in names if not (folder := Path("runs") / each).exists())


if __name__ == "__main__":
    sys.exit(main())
