"""The results of the GPU validation: its parts, its exit status, and the verified kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.shapes import Shape

#: As in kernels.py, which this module does not import because it imports torch.
BACKENDS = ("triton", "cuda")

OUTCOMES = ("passed", "failed", "skipped", "not reached")
OK, WRONG, NO_GPU = 0, 1, 2

Entries = Sequence[dict[str, Any]]


def correctness(journals: Sequence[Entries]) -> dict[str, Any]:
    """Count the outcomes by kernel and mode, and list the tests that did not pass."""
    about: dict[str, dict[str, str]] = {}
    outcomes: dict[str, tuple[str, str]] = {}
    errors = []
    for entries in journals:
        running = None
        for entry in entries:
            if entry["event"] == "collected":
                about |= entry["tests"]
            elif entry["event"] == "started":
                running = entry["test"]
            elif entry["event"] == "ended":
                running = None
                if outcomes.get(entry["test"], ("", ""))[0] != "failed":
                    outcomes[entry["test"]] = entry["outcome"], entry["reason"]
            elif entry["event"] == "died" and running is not None:
                outcomes[running] = "failed", f"its process ended: {entry['said']}"
                running = None
            elif entry["event"] == "died":
                errors.append(f"a process ended between tests: {entry['said']}")
            elif entry["event"] == "finished" and entry["status"] not in (0, 1, 5):
                errors.append(f"pytest ended with status {entry['status']}")
    if not about:
        errors.append("no test was collected")
    kernels: dict[str, dict[str, dict[str, int]]] = {}
    for test, properties in about.items():
        kernel = properties.get("kernel") or test.partition("::")[0].rpartition("test_")[2]
        outcome = outcomes.get(test, ("not reached", ""))[0]
        rows = kernels.setdefault(kernel.removesuffix(".py"), {})
        for row in ("all", properties.get("mode")):
            if row is not None:
                counts = rows.setdefault(row, dict.fromkeys(OUTCOMES, 0))
                counts[outcome] += 1
    listed = {
        wanted: [{"test": t, "reason": r} for t, (o, r) in outcomes.items() if o == wanted]
        for wanted in ("failed", "skipped")
    }
    return {
        "kernels": kernels,
        "failed": listed["failed"],
        "skipped": listed["skipped"],
        "not reached": [test for test in about if test not in outcomes],
        "errors": errors,
    }


def timing(entries: Entries, planned: Sequence[str]) -> dict[str, Any]:
    """Read a journal: the rows of a record, the errors, and the units that were not reached."""
    found: dict[str, list[Any]] = {"rows": [], "errors": []}
    begun = []
    running = None
    for entry in entries:
        if entry["event"] == "row":
            found["rows"].append(entry["row"])
        elif entry["event"] == "started":
            running = entry["name"]
            begun.append(running)
        elif entry["event"] == "ended":
            running = None
        elif entry["event"] == "error":
            found["errors"].append({key: entry[key] for key in ("name", "reason")})
        elif entry["event"] == "died":
            reason = f"its process ended: {entry['said']}"
            found["errors"].append({"name": running or "before the first", "reason": reason})
    wrong = [
        {"provider": provider, "case": " ".join((*case_name(row), row["step"])), "reason": reason}
        for row in found["rows"]
        for provider, reason in row.get("wrong", {}).items()
    ]
    left = [name for name in planned if name not in begun]
    return {**found, "wrong": wrong, "not reached": left}


def case_name(row: dict[str, Any]) -> tuple[str, str]:
    """The sizes and the mode of a row, as in the tables."""
    return str(Shape(**row["work"])), row["mode"]


def status(record: dict[str, Any]) -> int:
    """OK if both extensions were built, every test ran and passed, and no part found an error."""
    tests = record.get("correctness", {})
    counts = Counter()
    for rows in tests.get("kernels", {}).values():
        counts.update(rows["all"])
    right = (
        record.get("build", {}).get("outcome") == "built"
        and counts["passed"] > 0
        and not counts["failed"]
        and not counts["not reached"]
        and not tests.get("errors")
        and "error" not in tests
        and all(found.get("outcome") != "found" for found in record.get("sanitizer", {}).values())
        and not _suspects(record)
    )
    return OK if right else WRONG


def _suspects(record: dict[str, Any]) -> set[str]:
    """Our kernels and backends with wrong results in the timing, without the baselines."""
    entries = record.get("timing", {}).get("wrong", ())
    names = {entry["provider"].removeprefix("fastrnn.") for entry in entries}
    return {name for name in names if name.partition(".")[0] in BACKENDS}


def verified_kernels(record: dict[str, Any]) -> list[str]:
    """The kernels whose tests all ran and passed, and for which no other part found an error.

    An error of a backend, in the tests of the layer or in compute-sanitizer, counts against each of
    its kernels.
    """
    tests = record.get("correctness", {})
    wrong = {
        name
        for name, rows in tests.get("kernels", {}).items()
        if rows["all"]["failed"] or rows["all"]["not reached"] or not rows["all"]["passed"]
    }
    for tool, found in record.get("sanitizer", {}).items():
        if found.get("outcome") == "found":
            wrong.add(tool.partition(" ")[2])
    wrong |= _suspects(record)
    names = [name for name in tests.get("kernels", {}) if "." in name]
    return [name for name in names if not {name, name.partition(".")[0]} & wrong]
