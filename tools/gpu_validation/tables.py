"""The tables that the GPU validation prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.shapes import STEPS

from .results import BACKENDS, OUTCOMES, case_name

#: How many of the cases in which we are slower are listed below the table of times.
LISTED = 12

Rows = Sequence[dict[str, Any]]


def correctness_table(found: dict[str, Any]) -> str:
    """A line for each kernel and mode."""
    lines = [f"{'correctness':24}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES)]
    for kernel, rows in found.get("kernels", {}).items():
        for row, counts in rows.items():
            name = kernel if row == "all" else f"  {row}"
            lines.append(f"{name:24}" + "".join(f"{counts[o]:12}" for o in OUTCOMES))
    lines += [f"FAILED {entry['test']}" for entry in found.get("failed", ())]
    lines += [f"ERROR {error}" for error in found.get("errors", ())]
    return "\n".join(lines)


#: The columns of the table of times: the kernels, with short names.
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
    """A line for each shape and mode.

    It has the microseconds per step of each kernel, forward/backward (* marks the choice of its
    backend), and nn.RNN's time over that of each of our backends (! marks where we are slower).
    """
    lines = [
        f"{'(T, B, I, H)':30}{'mode':9}"
        + "".join(f"{kernel:>14}" for kernel in COLUMNS.values())
        + f"{'':>3}{'inference':>11}{'forward':>9}{'training':>10}"
    ]
    rows: Rows = found["rows"]
    for key in dict.fromkeys(map(case_name, rows)):
        mine = [row for row in rows if case_name(row) == key]
        alone = {row["step"]: row for row in mine if row["scope"] == "kernel"}
        cells = "".join(f"{_cell(alone, kernel):>14}" for kernel in COLUMNS)
        layers = {row["step"]: row for row in mine if row["scope"] != "kernel"}
        start = f"{key[0]:30}{key[1]:9}{cells}"
        for backend in [b for b in BACKENDS if _is_named(f"fastrnn.{b}", layers.values())] or [""]:
            ratios = [_ratio(layers.get(step), backend) for step in STEPS]
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


def _losing(rows: Rows) -> list[str]:
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
                f"{backend}: slower than nn.RNN in {len(losing)} of {len(pairs)} cases{shown}"
            )
        for ratio, row in losing[:LISTED]:
            theirs, ours = (row["times"][one]["ms"][2] for one in ("nn.RNN", name))
            what = " ".join((*case_name(row), row["step"]))
            lines.append(f"  {what}: {ratio:.2f}x ({theirs:.3f} ms, ours {ours:.3f})")
    return lines


def fastest_table(found: dict[str, Any], clock: float | None) -> str:
    """The fastest kernel for each shape, mode and direction, and the choice of the plan.

    The time of the fastest kernel has its ratio to the lower bound. The time of the choice has its
    ratio to the time of the cost model. A line also shows another CUDA strategy if that is faster.

    Args:
        clock: cycles per second, if known; the cost model counts in cycles.
    """
    lines = [
        f"{'(T, B, I, H)':30}{'mode':9}{'':10}{'fastest':>24}{'x bound':>9}  the plan's choice"
    ]
    chosen = wrongly = 0
    for row in found["rows"]:
        if row["scope"] != "kernel" or "times" not in row:
            continue
        us = {name: _us(row, name) for name in row["times"]}
        best, *_ = fastest = sorted(us, key=us.__getitem__)
        bound = max(row["floor"].values()) if "floor" in row else None
        over = f"{us[best] / (1e3 * bound / row['work']['T']):.1f}" if bound else "-"
        named = f"{best} {us[best]:.2f}"
        line = f"{case_name(row)[0]:30}{row['mode']:9}{row['step']:10}{named:>24}{over:>9}"
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
    return "\n".join(
        [*lines, f"the plan did not choose the fastest in {wrongly} of {chosen} cases"]
    )


def _us(row: dict[str, Any], name: str) -> float:
    """The median, in microseconds per step."""
    return 1e3 * row["times"][name]["ms"][2] / row["work"]["T"]


def _is_named(provider: str, rows: Iterable[dict[str, Any]]) -> bool:
    return any(provider in row.get("times", ()) or provider in row.get("wrong", ()) for row in rows)


def _cell(directions: dict[str, dict[str, Any]], kernel: str) -> str:
    """The times of a kernel, forward/backward."""
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
