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
    """0 only if all was built, every test run and none failed, and nothing else found wrong."""
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
        and all(
            entry.get("agrees", True)
            for kind in ("recurrence", "layer")
            for entry in record.get("timing", {}).get(kind, ())
        )
    )
    return OK if right else WRONG


def proven(record: dict[str, Any]) -> list[str]:
    """The kernels of which tests passed and nothing was wrong with, nor left open.

    What is said of a backend as a whole, by its tests of the layer and by compute-sanitizer, is
    said of each of its kernels.
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
    for kind in ("recurrence", "layer"):
        for entry in record.get("timing", {}).get(kind, ()):
            if "error" in entry or not entry.get("agrees", True):
                backend, _, kernels = entry["kernel"].partition(".")
                wrong |= {f"{backend}.{kernel}" for kernel in kernels.split("/")}
    names = [name for name in tests.get("kernels", {}) if "." in name]
    return [name for name in names if not {name, name.partition(".")[0]} & wrong]


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


#: Columns of the table of times: the kernels, by as much of their names as tells them apart.
COLUMNS = {
    "triton.rows": "rows",
    "triton.single_cta": "single_cta",
    "triton.single_cta_gluon": "gluon",
    "triton.grid": "triton.grid",
    "cuda.cluster": "cluster",
    "cuda.grid": "cuda.grid",
    "cuda.step": "step",
}


def timing_table(found: dict[str, Any]) -> str:
    """A line for every shape and mode.

    Microseconds a step of the recurrence, forward/backward, by every kernel (* is its backend's
    choice), and nn.RNN's time over FusedRNN's by each backend (! where we lose).
    """
    lines = [
        f"{'(T, B, I, H)':30}{'mode':9}"
        + "".join(f"{kernel:>14}" for kernel in COLUMNS.values())
        + f"{'':>3}{'inference':>11}{'forward':>9}{'training':>10}"
    ]
    for key in dict.fromkeys(_key(e) for kind in ("recurrence", "layer") for e in found[kind]):
        alone = [entry for entry in found["recurrence"] if _key(entry) == key]
        cells = "".join(f"{_cell(alone, kernel):>14}" for kernel in COLUMNS)
        layers: dict[str, dict[str | None, dict[str, Any]]] = {}
        for entry in found["layer"]:
            if _key(entry) == key:
                layers.setdefault(entry["backend"], {})[entry.get("step")] = entry
        start = f"{key[0]:30}{key[1]:9}{cells}"
        for backend, steps in layers.items() or [("", {})]:
            ratios = [_ratio(steps.get(step)) for step in ("inference", "forward", "training")]
            if None in steps:
                ratios[0] = "WRONG "
            ends = f"{ratios[0]:>7}{ratios[1]:>9}{ratios[2]:>10}"
            lines.append(f"{start}{backend:>7}{ends}".rstrip())
            start = " " * len(start)
    for entry in (*found["recurrence"], *found["layer"]):
        if "error" in entry or entry.get("agrees") is False:
            what = f"{entry['kernel']} {entry.get('direction', 'layer')}"
            reason = entry.get("error", entry.get("reason"))[:200].replace("\n", " ")
            lines.append(f"{' '.join(_key(entry))} {what}: {reason}")
    lines += [f"ERROR {e['name']}, {e['part']}: {e['reason'][-300:]}" for e in found["errors"]]
    if found["not reached"]:
        lines.append(f"not reached: {', '.join(found['not reached'])}")
    for backend in dict.fromkeys(entry["backend"] for entry in found["layer"]):
        mine = [entry for entry in found["layer"] if entry["backend"] == backend]
        losing = [entry for entry in mine if entry.get("ratio", 1) < 1]
        shown = f", the {LISTED} worst" if len(losing) > LISTED else ""
        lines.append(f"{backend}: slower than nn.RNN {len(losing)} of {len(mine)} times{shown}")
        for entry in sorted(losing, key=lambda entry: entry["ratio"])[:LISTED]:
            ms = f"{entry['ms_theirs']:.3f} ms, ours {entry['ms_ours']:.3f}"
            lines.append(f"  {' '.join(_key(entry))} {entry['step']}: {entry['ratio']:.2f}x ({ms})")
    return "\n".join(lines)


def fastest_table(found: dict[str, Any]) -> str:
    """Of every shape, mode and direction the fastest kernel, over its floor, and the plan.

    The plan's choice stands beside the fastest of its strategies where it is another, with how
    much slower it is; and what was measured of it over what the plan's model says.
    """
    lines = [
        f"{'(T, B, I, H)':30}{'mode':9}{'':10}{'fastest':>24}{'x floor':>9}  the plan's choice"
    ]
    timed = [entry for entry in found["recurrence"] if "us_a_step" in entry]
    chosen = wrongly = 0
    for case in dict.fromkeys((*_key(entry), entry["direction"]) for entry in timed):
        entries = [entry for entry in timed if (*_key(entry), entry["direction"]) == case]
        entries.sort(key=lambda entry: entry["us_a_step"])
        best = entries[0]
        floor = f"{best['over_floor']:.1f}" if "over_floor" in best else "-"
        line = f"{case[0]:30}{case[1]:9}{case[2]:10}{_timed(best):>24}{floor:>9}"
        strategies = [entry for entry in entries if entry["kernel"].startswith("cuda.")]
        for choice in (entry for entry in strategies if entry["chosen"]):
            slower = choice["us_a_step"] / strategies[0]["us_a_step"]
            line += f"  {_timed(choice)}"
            if "cycles_a_step" in choice:
                line += f", {choice['cycles_a_step'] / choice['model_cycles_a_step']:.1f} x model"
            chosen += 1
            if choice is not strategies[0]:
                wrongly += 1
                line += f", {slower:.2f} x {_timed(strategies[0])}"
        lines.append(line)
    return "\n".join([*lines, f"the plan did not choose the fastest: {wrongly} of {chosen} times"])


def _timed(entry: dict[str, Any]) -> str:
    return f"{entry['kernel']} {entry['us_a_step']:.2f}"


def _key(entry: dict[str, Any]) -> tuple[str, str]:
    heads = f" x{entry['groups']}" if entry.get("groups", 1) > 1 else ""
    relu = " relu" if entry["activation"] == "relu" else ""
    return f"({', '.join(map(str, entry['shape']))}){heads}{relu}", entry["mode"]


def _cell(entries: Entries, kernel: str) -> str:
    """A kernel's times, forward/backward."""
    cells = {}
    for entry in entries:
        if entry["kernel"] != kernel:
            continue
        if "us_a_step" in entry:
            cells[entry["direction"]] = f"{entry['us_a_step']:.2f}" + "*" * entry["chosen"]
        else:
            cells[entry["direction"]] = "WRONG" if entry.get("agrees") is False else "error"
    return "/".join(cells.get(direction, "-") for direction in ("forward", "backward"))


def _ratio(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "- "
    return f"{entry['ratio']:.2f}" + ("!" if entry["ratio"] < 1 else " ")
