"""Run the benchmarks in interleaved turns, and show, compare and report their records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import run
from .groups import GROUPS, SELECTIONS
from .report import records, tables
from .shapes import recurrence_flops


def shapes() -> int:
    """Print the table of shapes."""
    for name, groups in SELECTIONS.items():
        print(f"{name}: {', '.join(groups)}")
    for name, group in GROUPS.items():
        print(f"\n{name}: {group.about}\n  {group.scope}, {', '.join(group.steps)}")
        for device in ("cpu", "cuda"):
            print(f"  {device}: {', '.join(group.modes(device)) or 'not measured'}")
        for shape in group.shapes:
            print(f"    {shape!s:40}{recurrence_flops(shape) / 1e9:10.3f} GFLOP")
    return 0


def show(path: Path) -> int:
    """Print a record's table."""
    record = records.read(path)
    machine = record["machine"]
    print(f"{path.parent.name}, commit {machine['commit']}, {machine['date']}\n")
    print("\n".join(tables.summary(record["rows"])))
    return 0


def compare(old: Path, new: Path) -> int:
    """Print how our times changed from an old record to a new one.

    The exit status is 1 if a time grew by more than 5 % and by more than its turns differ.
    """
    before, after = records.read(old), records.read(new)
    for record in (before, after):
        machine = record["machine"]
        print(f"{machine['commit']}, {machine['date']}, {record['selection']['shapes']}")
    if before["machine"].get("cpu") != after["machine"].get("cpu") or before["machine"].get(
        "gpu"
    ) != after["machine"].get("gpu"):
        print("The records are of different machines.", file=sys.stderr)
    changes = records.compare(before, after)
    if not changes:
        print("The records have no case in common.", file=sys.stderr)
        return 2
    grown = [change for change in changes if change.is_regression]
    shrunk = [change for change in changes if change.factor < 1 / records.ALLOWED]
    print(
        f"\n{len(changes)} values in common: {len(grown)} grew by more than 5 %, {len(shrunk)} "
        "shrank by as much (times relative to torch's layer in the same run, if measured)"
    )
    for change in grown:
        doubt = "" if change.is_certain else "  (within the variation of its turns)"
        print(f"  {change.factor:5.2f}  {change.provider}  {change.what}{doubt}")
    if shrunk:
        print("largest improvements:")
    for change in shrunk[:-11:-1]:
        print(f"  {change.factor:5.2f}  {change.provider}  {change.what}")
    return 1 if any(change.is_certain for change in grown) else 0


def add(path: Path) -> int:
    """Store a record that was made elsewhere."""
    print(records.write(records.read(path)))
    return 0


def report() -> int:
    """Write docs/benchmarks.md, the full tables, the figures, and the blocks of other documents."""
    from .report import pages

    print("\n".join(map(str, pages.write(pages.newest()))))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "run",
        help="Measure fastrnn and the baselines in interleaved turns, and write a record",
        description=run.DESCRIPTION,
    )
    run.add_arguments(command)
    command.set_defaults(call=run.main)
    for function, paths in (
        (shapes, ()),
        (show, ("record",)),
        (compare, ("old", "new")),
        (add, ("record",)),
        (report, ()),
    ):
        summary = (function.__doc__ or "").partition("\n")[0].rstrip(".")
        command = commands.add_parser(function.__name__, help=summary, description=function.__doc__)
        for name in paths:
            command.add_argument(name, type=Path, help="a file of benchmarks/results")
        command.set_defaults(
            call=lambda given, function=function, paths=paths: function(
                *(getattr(given, name) for name in paths)
            )
        )
    given = parser.parse_args(arguments)
    try:
        return given.call(given)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
