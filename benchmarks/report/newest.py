"""The measurements that the documentation shows: the newest of each machine.

For a CPU these are the newest record of the full table, with the newer rows of groups that were
measured as thoroughly since. A CPU without such a record shows the newest record of all cells, and
a GPU the newest row of each case in the records of `make gpu-check`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

from ..groups import GATED, SELECTIONS, names
from ..roofline import cpu
from . import gpu, records
from .records import Record

#: Entries of `machine` that must be equal for rows of two records to share a table.
SAME = (*gpu.SAME, "onnxruntime")

#: The same for packages that older records do not name, because they have no baseline of them.
SAME_IF_KNOWN = ("openvino", "jax")


def newest(folder: Path = records.RESULTS) -> dict[str, Record]:
    """Return one record for each machine, by the name of its folder."""
    found = {}
    for name, paths in records.paths(folder).items():
        every = [records.read(path) for path in paths]
        checks = [record for record in every if record["selection"]["shapes"] == "gpu"]
        full = [record for record in every if is_full(record)]
        cells = [record for record in every if has_cells(record)]
        if full:
            found[name] = with_best_bounds(with_newer_groups(full[-1], every), every)
        elif checks:
            found[name] = gpu.combined(checks)
        elif cells:
            found[name] = with_best_bounds(with_newer_groups(cells[-1], every), every)
    return found


def is_full(record: Record) -> bool:
    """Whether it has all cases, and was not interrupted."""
    return record["selection"]["complete"] and "full" in record["selection"]["shapes"].split(",")


def has_cells(record: Record) -> bool:
    """Whether it has the mixed shapes of the cells with gates, and was not interrupted."""
    # Not `names`: older records may name groups that no longer exist.
    chosen = record["selection"]["shapes"].split(",")
    groups = {group for name in chosen for group in SELECTIONS.get(name, (name,))}
    return record["selection"]["complete"] and {f"mixed-{cell}" for cell in GATED} <= groups


def with_newer_groups(record: Record, every: Iterable[Record]) -> Record:
    """Replace groups that were measured later with the same baselines and at least the same budget.

    The entry `renewed` of the result holds the commit of each replaced group.
    """
    for other in every:
        chosen, former = other["selection"], record["selection"]
        if (
            other["machine"]["date"] > record["machine"]["date"]
            and _are_alike(other["machine"], record["machine"])
            and chosen["complete"]
            and chosen["peers"] == former["peers"]
            and chosen["budget_s"] >= former["budget_s"]
        ):
            groups = names(chosen["shapes"])
            kept = [row for row in record["rows"] if row["group"] not in groups]
            since = record.get("renewed", {}) | dict.fromkeys(groups, other["machine"]["commit"])
            versions = {key: other["machine"].get(key) for key in SAME_IF_KNOWN}
            record = record | {
                "machine": versions | record["machine"],
                "rows": kept + other["rows"],
                "renewed": since,
            }
    return record


def _are_alike(machine: dict[str, Any], former: dict[str, Any]) -> bool:
    """Whether rows of both records can share a table."""
    return all(machine.get(key) == former.get(key) for key in SAME) and all(
        machine.get(key) == former[key] for key in SAME_IF_KNOWN if key in former
    )


def with_best_bounds(record: Record, every: Iterable[Record]) -> Record:
    """Compute a CPU's lower bounds from the best rates that any record of the machine measured.

    Other processes may share the caches and the clock of the machine during a whole run.
    """
    if record["machine"]["device"] != "cpu":
        return record
    best = reduce(cpu.best_of, (each["calibration"] for each in every))
    rates = cpu.machine(best)
    if rates is None:
        return record
    rows = [
        row | {"floor": records.bounds(records.case(row), rates)} if "floor" in row else row
        for row in record["rows"]
    ]
    return record | {"calibration": best, "rows": rows}
