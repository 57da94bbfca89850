"""What a GPU check leaves: a record made of what its parts found, its verdict, and its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

OUTCOMES = ("passed", "failed", "skipped", "not reached")
OK, WRONG, NO_GPU = 0, 1, 2

#: The table marks every shape where we are slower; so many, the worst, are listed once more.
LISTED = 12

Entries = Sequence[dict[str, Any]]


def correctness(journals: Sequence[Entries]) -> dict[str, Any]:
    """Counts by kernel and mode, and whatever did not pass, from the journals of the tests."""
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
    """Measurements of the recurrence and of the layer, from the journal of the timing."""
    found: dict[str, list[dict[str, Any]]] = {"recurrence": [], "layer": [], "errors": []}
    begun = []
    running = None
    for entry in entries:
        if entry["event"] in ("recurrence", "layer"):
            found[entry["event"]].append({k: v for k, v in entry.items() if k != "event"})
        elif entry["event"] == "started":
            running = entry["name"]
            begun.append(running)
        elif entry["event"] == "ended":
            running = None
        elif entry["event"] == "error":
            found["errors"].append({key: entry[key] for key in ("name", "part", "reason")})
        elif entry["event"] == "died":
            reason = f"its process ended: {entry['said']}"
            name = running or "before the first"
            found["errors"].append({"name": name, "part": "process", "reason": reason})
    return {**found, "not reached": [name for name in planned if name not in begun]}


def status(record: dict[str, Any]) -> int:
    """0 only if every test was run and none failed, and nothing else was found to be wrong."""
    tests = record.get("correctness", {})
    counts = Counter()
    for rows in tests.get("kernels", {}).values():
        counts.update(rows["all"])
    right = (
        counts["passed"] > 0
        and not counts["failed"]
        and not counts["not reached"]
        and not tests.get("errors")
        and "error" not in tests
        and all(found.get("outcome") != "found" for found in record.get("sanitizer", {}).values())
        and all(
            entry.get("agrees", True)
            for kind in ("recurrence", "layer")
            for entry in record.get("timing", {}).get(kind, ())
        )
    )
    return OK if right else WRONG


def correctness_table(found: dict[str, Any]) -> str:
    """A line for every kernel and mode."""
    lines = [f"{'correctness':24}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES)]
    for kernel, rows in found.get("kernels", {}).items():
        for row, counts in rows.items():
            name = kernel if row == "all" else f"  {row}"
            lines.append(f"{name:24}" + "".join(f"{counts[o]:12}" for o in OUTCOMES))
    lines += [f"FAILED {entry['test']}" for entry in found.get("failed", ())]
    lines += [f"ERROR {error}" for error in found.get("errors", ())]
    return "\n".join(lines)


def timing_table(found: dict[str, Any]) -> str:
    """A line for every shape and mode.

    Microseconds a step of the recurrence, forward/backward, by every kernel (* is the table's
    choice), the choice's times over the floor, and nn.RNN's time over FusedRNN's (! where we lose).
    """
    kernels = ("single_cta", "single_cta_gluon", "rows", "grid")
    lines = [
        f"{'(T, B, I, H)':30}{'mode':9}"
        + "".join(f"{kernel:>18}" for kernel in kernels)
        + f"{'x floor':>12}{'inference':>11}{'forward':>9}{'training':>10}"
    ]
    for key in dict.fromkeys(_key(e) for kind in ("recurrence", "layer") for e in found[kind]):
        alone = [entry for entry in found["recurrence"] if _key(entry) == key]
        layer = {entry.get("step"): entry for entry in found["layer"] if _key(entry) == key}
        cells = [_both(alone, "us_a_step", ".2f", kernel=kernel) for kernel in kernels]
        chosen = {entry["kernel"] for entry in alone if entry["chosen"]}
        cells = [c + ("*" if k in chosen else " ") for c, k in zip(cells, kernels, strict=True)]
        ratios = [_ratio(layer.get(step)) for step in ("inference", "forward", "training")]
        if None in layer:
            ratios[0] = "WRONG "
        lines.append(
            f"{key[0]:30}{key[1]:9}"
            + "".join(f"{cell:>18}" for cell in cells)
            + f"{_both(alone, 'over_floor', '.1f', chosen=True):>12}"
            + f"{ratios[0]:>11}{ratios[1]:>9}{ratios[2]:>10}"
        )
    for entry in (*found["recurrence"], *found["layer"]):
        if "error" in entry or entry.get("agrees") is False:
            what = f"{entry['kernel']} {entry.get('direction', 'layer')}"
            reason = entry.get("error", entry.get("reason"))[:200].replace("\n", " ")
            lines.append(f"{' '.join(_key(entry))} {what}: {reason}")
    lines += [f"ERROR {e['name']}, {e['part']}: {e['reason'][-300:]}" for e in found["errors"]]
    if found["not reached"]:
        lines.append(f"not reached: {', '.join(found['not reached'])}")
    losing = [entry for entry in found["layer"] if entry.get("ratio", 1) < 1]
    shown = f", the {LISTED} worst" if len(losing) > LISTED else ""
    lines.append(f"slower than nn.RNN: {len(losing)} of {len(found['layer'])} times{shown}")
    for entry in sorted(losing, key=lambda entry: entry["ratio"])[:LISTED]:
        ms = f"{entry['ms_theirs']:.3f} ms, ours {entry['ms_ours']:.3f}"
        lines.append(f"  {' '.join(_key(entry))} {entry['step']}: {entry['ratio']:.2f}x ({ms})")
    return "\n".join(lines)


def _key(entry: dict[str, Any]) -> tuple[str, str]:
    heads = f" x{entry['groups']}" if entry.get("groups", 1) > 1 else ""
    relu = " relu" if entry["activation"] == "relu" else ""
    return f"({', '.join(map(str, entry['shape']))}){heads}{relu}", entry["mode"]


def _both(entries: Entries, field: str, form: str, **wanted: Any) -> str:
    """A field of the forward and of the backward."""
    cells = {}
    for entry in entries:
        if all(entry[key] == value for key, value in wanted.items()):
            wrong = "WRONG" if entry.get("agrees") is False else "error"
            value = format(entry[field], form) if field in entry else wrong
            cells[entry["direction"]] = "-" if entry.get("agrees") and field not in entry else value
    return "/".join(cells.get(direction, "-") for direction in ("forward", "backward"))


def _ratio(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "- "
    return f"{entry['ratio']:.2f}" + ("!" if entry["ratio"] < 1 else " ")
