"""What a GPU check leaves: a record made of what its parts found, its verdict, and its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .shapes import STEPS, Work

#: As in gpu_kernels, which needs torch.
BACKENDS = ("triton", "cuda")

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
    """Rows as records.py has them, and what did not come to any, from the timing's journal."""
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
        {"provider": provider, "case": " ".join((*_key(row), row["step"])), "reason": reason}
        for row in found["rows"]
        for provider, reason in row.get("wrong", {}).items()
    ]
    left = [name for name in planned if name not in begun]
    return {**found, "wrong": wrong, "not reached": left}


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
        and not _suspects(record)
    )
    return OK if right else WRONG


def _suspects(record: dict[str, Any]) -> set[str]:
    """Our kernels, or backends, that the timing found wrong; a peer's error is not ours."""
    entries = record.get("timing", {}).get("wrong", ())
    names = {entry["provider"].removeprefix("fastrnn.") for entry in entries}
    return {name for name in names if name.partition(".")[0] in BACKENDS}


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
    wrong |= _suspects(record)
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
    choice), and nn.RNN's time over that of fastrnn by each backend (! where we lose).
    """
    lines = [
        f"{'(T, B, I, H)':30}{'mode':9}"
        + "".join(f"{kernel:>14}" for kernel in COLUMNS.values())
        + f"{'':>3}{'inference':>11}{'forward':>9}{'training':>10}"
    ]
    rows: Entries = found["rows"]
    for key in dict.fromkeys(map(_key, rows)):
        mine = [row for row in rows if _key(row) == key]
        alone = {row["step"]: row for row in mine if row["scope"] == "kernel"}
        cells = "".join(f"{_cell(alone, kernel):>14}" for kernel in COLUMNS)
        beside = {row["step"]: row for row in mine if row["scope"] != "kernel"}
        start = f"{key[0]:30}{key[1]:9}{cells}"
        for backend in [b for b in BACKENDS if _is_named(f"fastrnn.{b}", beside.values())] or [""]:
            ratios = [_ratio(beside.get(step), backend) for step in STEPS]
            ends = f"{ratios[0]:>7}{ratios[1]:>9}{ratios[2]:>10}"
            lines.append(f"{start}{backend:>7}{ends}".rstrip())
            start = " " * len(start)
    for entry in found["wrong"]:
        reason = entry["reason"][:200].replace("\n", " ")
        lines.append(f"{entry['provider']}, {entry['case']}: {reason}")
    lines += [f"ERROR {error['name']}: {error['reason'][-300:]}" for error in found["errors"]]
    if found["not reached"]:
        lines.append(f"not reached: {', '.join(found['not reached'])}")
    return "\n".join([*lines, *_losing(rows)])


def _losing(rows: Entries) -> list[str]:
    lines = []
    for backend in BACKENDS:
        name = f"fastrnn.{backend}"
        pairs = [
            (row["times"]["nn.RNN"]["over"][name], row)
            for row in rows
            if {name, "nn.RNN"} <= set(row.get("times", ()))
        ]
        losing = sorted((pair for pair in pairs if pair[0] < 1), key=lambda pair: pair[0])
        if pairs:
            shown = f", the {LISTED} worst" if len(losing) > LISTED else ""
            lines.append(
                f"{backend}: slower than nn.RNN {len(losing)} of {len(pairs)} times{shown}"
            )
        for ratio, row in losing[:LISTED]:
            theirs, ours = (row["times"][one]["ms"][2] for one in ("nn.RNN", name))
            what = " ".join((*_key(row), row["step"]))
            lines.append(f"  {what}: {ratio:.2f}x ({theirs:.3f} ms, ours {ours:.3f})")
    return lines


def fastest_table(found: dict[str, Any], clock: float | None) -> str:
    """Of every shape, mode and direction the fastest kernel, over its floor, and the plan.

    The plan's choice stands beside the fastest of its strategies where it is another, with how
    much slower it is; and what was measured of it over what the plan's model says.

    Args:
        clock: cycles a second, where they are known: the model counts in them.
    """
    lines = [
        f"{'(T, B, I, H)':30}{'mode':9}{'':10}{'fastest':>24}{'x floor':>9}  the plan's choice"
    ]
    chosen = wrongly = 0
    for row in found["rows"]:
        if row["scope"] != "kernel" or "times" not in row:
            continue
        us = {name: _us(row, name) for name in row["times"]}
        best, *_ = fastest = sorted(us, key=us.__getitem__)
        floor = max(row["floor"].values()) if "floor" in row else None
        over = f"{us[best] / (1e3 * floor / row['work']['T']):.1f}" if floor else "-"
        named = f"{best} {us[best]:.2f}"
        line = f"{_key(row)[0]:30}{row['mode']:9}{row['step']:10}{named:>24}{over:>9}"
        strategies = [name for name in fastest if name.startswith("cuda.")]
        for choice in (name for name in strategies if row["choices"][name]["chosen"]):
            line += f"  {choice} {us[choice]:.2f}"
            if clock:
                model = row["choices"][choice]["model_cycles_a_step"]
                line += f", {1e-6 * us[choice] * clock / model:.1f} x model"
            chosen += 1
            if choice != strategies[0]:
                wrongly += 1
                slower = us[choice] / us[strategies[0]]
                line += f", {slower:.2f} x {strategies[0]} {us[strategies[0]]:.2f}"
        lines.append(line)
    return "\n".join([*lines, f"the plan did not choose the fastest: {wrongly} of {chosen} times"])


def _us(row: dict[str, Any], name: str) -> float:
    """Microseconds a step, by the median."""
    return 1e3 * row["times"][name]["ms"][2] / row["work"]["T"]


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return str(Work(**row["work"])), row["mode"]


def _is_named(provider: str, rows: Iterable[dict[str, Any]]) -> bool:
    return any(provider in row.get("times", ()) or provider in row.get("wrong", ()) for row in rows)


def _cell(directions: dict[str, dict[str, Any]], kernel: str) -> str:
    """A kernel's times, forward/backward."""
    cells = []
    for direction in ("forward", "backward"):
        row = directions.get(direction, {})
        if kernel in row.get("times", ()):
            cells.append(f"{_us(row, kernel):.2f}" + "*" * row["choices"][kernel]["chosen"])
        else:
            cells.append("WRONG" if kernel in row.get("wrong", ()) else "-")
    return "/".join(cells)


def _ratio(row: dict[str, Any] | None, backend: str) -> str:
    name = f"fastrnn.{backend}"
    if row is not None and name in row.get("wrong", ()):
        return "WRONG "
    if row is None or not {name, "nn.RNN"} <= set(row.get("times", ())):
        return "- "
    ratio = row["times"]["nn.RNN"]["over"][name]
    return f"{ratio:.2f}" + ("!" if ratio < 1 else " ")
