"""Commands for records of benchmarks: `python -m benchmarks --help`. `make bench` makes records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .report import records, tables
from .shapes import GROUPS, SELECTIONS, recurrence_flops

EPILOG = "pytest benchmarks --help tells how to measure; make bench and make bench-full do."


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
    """Print how our times changed; 1 if one grew by over 5 %, and more than its turns differ."""
    before, after = records.read(old), records.read(new)
    for record in (before, after):
        machine = record["machine"]
        print(f"{machine['commit']}, {machine['date']}, {record['selection']['shapes']}")
    if before["machine"].get("cpu") != after["machine"].get("cpu") or before["machine"].get(
        "gpu"
    ) != after["machine"].get("gpu"):
        print("These are records of different machines.", file=sys.stderr)
    changes = records.compare(before, after)
    if not changes:
        print("They have no case in common.", file=sys.stderr)
        return 2
    grown = [change for change in changes if change.is_regression]
    shrunk = [change for change in changes if change.factor < 1 / records.ALLOWED]
    print(
        f"\n{len(changes)} in common: {len(grown)} grew by more than 5 %, {len(shrunk)} shrank by "
        "as much (times relative to nn.RNN's of the same run, where it has one)"
    )
    for change in grown:
        doubt = "" if change.is_certain else "  (its turns differ as much)"
        print(f"  {change.factor:5.2f}  {change.provider}  {change.what}{doubt}")
    if shrunk:
        print("the most gained:")
    for change in shrunk[:-11:-1]:
        print(f"  {change.factor:5.2f}  {change.provider}  {change.what}")
    return 1 if any(change.is_certain for change in grown) else 0


def add(path: Path) -> int:
    """File a record that was made elsewhere."""
    print(records.write(records.read(path)))
    return 0


def report() -> int:
    """Write docs/benchmarks.md, the full tables, the figures, and the blocks of other documents."""
    from .report import pages

    print("\n".join(map(str, pages.write(pages.newest()))))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function, paths in (
        (shapes, ()),
        (show, ("record",)),
        (compare, ("old", "new")),
        (add, ("record",)),
        (report, ()),
    ):
        words = (function.__doc__ or "").partition(";")[0].strip()
        command = commands.add_parser(function.__name__, help=words, description=function.__doc__)
        for name in paths:
            command.add_argument(name, type=Path, help="a file of benchmarks/results")
        command.set_defaults(function=function, paths=paths)
    given = parser.parse_args(arguments)
    try:
        return given.function(*(getattr(given, name) for name in given.paths))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
