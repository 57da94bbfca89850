"""Download a real table from Debian's archive, train on it, and write a report with baselines.

It runs, and prints, the commands that a user would type for a table of their own.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrnn.fusion import cli
from fastrnn.fusion.errors import reason

from . import prompts, stamps


@dataclass(frozen=True)
class Task:
    """A table, and the flags of `fastrnn fit` that it needs."""

    about: str
    make: Callable[[Path], Path]
    flags: str


TASKS = {
    "stamps": Task(
        "703 stamps of Tux Paint: picture, description and spoken description; 8 folders (161 MB)",
        stamps.make,
        "--image picture --text description --audio spoken",
    ),
    "prompts": Task(
        "2,700 telephone prompts of Asterisk: recording and transcript; 5 languages (98 MB)",
        prompts.make,
        # One recording is longer than a minute, and one is empty.
        "--audio recording --text transcript --group prompt --max-seconds 120 --on-bad-row skip",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a task and return the exit code; an error of the user is printed in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.public_data",
        description=__doc__,
        epilog="\n".join(f"{name}: {task.about}" for name, task in TASKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=TASKS, help="the table")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("runs/public-data"),
        metavar="FOLDER",
        help="where to unpack the packages (%(default)s)",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="FOLDER", help="the run's folder (runs/NAME-SEED)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the training")
    given = parser.parse_args(arguments)
    task = TASKS[given.name]
    folder = given.output_dir or Path("runs") / f"{given.name}-{given.seed}"
    try:
        manifest = task.make(given.data)
    except (OSError, ValueError) as error:
        print(f"error: {reason(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    fit = ["fit", str(manifest), *task.flags.split(), "--seed", str(given.seed)]
    for command in ([*fit, "--output-dir", str(folder), "--yes"], ["evaluate", str(folder)]):
        print(f"\n$ fastrnn {shlex.join(command)}", flush=True)
        if status := cli.main(command):
            return status
    # Of this process, which reads files and trains; in KB on Linux.
    print(f"\nPeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
