"""Records made into pages: docs/benchmarks.md, its figures, and the README's tables.

`python -m benchmarks report` takes of every machine the newest record of the full table, and of
groups that were measured as thoroughly since, the newer rows; of a GPU that has none, of every case
the newest of its checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path

from ..environment import ROOT
from ..roofline import cpu
from ..shapes import GROUPS, names
from . import figures, gpu, gpu_figures, markdown, records
from .records import Record, Row
from .tables import (
    MEMORY_HEADER,
    WORDS,
    Line,
    lines,
    mean,
    memory_cells,
    number,
    short_number,
    times,
)

DOCUMENT = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
FIGURES = ROOT / "docs" / "figures"
INTRODUCTION = Path(__file__).parent / "introduction.md"
PUBLISHED = Path(__file__).parent / "published.json"

#: Below the README's table.
CAPTION = (
    "Milliseconds, best of many; ratio: the median over turns of the best peer's time over ours; "
    "× floor: our time over the least that the machine's arithmetic, memory and latency allow. "
    "float32, {title}, torch {torch}. Training is forward and backward with all gradients, the "
    "input's too. The peers are nn.RNN, a loop in PyTorch, that loop compiled, and ONNX Runtime. "
    "[docs/benchmarks.md](docs/benchmarks.md) has all {count} cases, the method, and growth with "
    "T, B and H."
)

#: The steps that the tables for a hurried reader have.
SHOWN = ("inference", "training")

#: What records of one machine must share for their rows to stand side by side.
SAME = (*gpu.SAME, "onnxruntime")

#: In a case of no more than so many steps, the call takes about as long as its computation.
FEW_STEPS = 8

#: Losing cases that the README lists; docs/benchmarks.md has them all.
LISTED = 8


def newest(folder: Path = records.RESULTS) -> dict[str, Record]:
    """Of every machine the newest record of the full table; or all of its GPU checks, as one."""
    found = {}
    for name, paths in records.paths(folder).items():
        every = [records.read(path) for path in paths]
        checks = [record for record in every if record["selection"]["shapes"] == "gpu"]
        full = [record for record in every if is_full(record)]
        if full:
            found[name] = calibrated(renewed(full[-1], every), every)
        elif checks:
            found[name] = gpu.combined(checks)
    return found


def renewed(record: Record, every: Iterable[Record]) -> Record:
    """The same with the newer rows of groups measured since, with all peers and as patiently.

    `renewed` in it says of each such group at which commit.
    """
    for other in every:
        chosen, former = other["selection"], record["selection"]
        if (
            other["machine"]["date"] > record["machine"]["date"]
            and all(other["machine"].get(key) == record["machine"].get(key) for key in SAME)
            and chosen["complete"]
            and chosen["peers"] == former["peers"]
            and chosen["budget_s"] >= former["budget_s"]
        ):
            groups = names(chosen["shapes"])
            left = [row for row in record["rows"] if row["group"] not in groups]
            since = record.get("renewed", {}) | dict.fromkeys(groups, other["machine"]["commit"])
            record = record | {"rows": left + other["rows"], "renewed": since}
    return record


def calibrated(record: Record, every: Iterable[Record]) -> Record:
    """A CPU's record with floors of the best that any of this machine's records has measured.

    Others may share its caches and its clock for as long as a whole run.
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


def is_full(record: Record) -> bool:
    """Whether it holds all there is, and was not broken off."""
    return record["selection"]["complete"] and "full" in record["selection"]["shapes"].split(",")


def write(
    found: dict[str, Record],
    document: Path = DOCUMENT,
    readme: Path = README,
    pictures: Path = FIGURES,
) -> None:
    """Write the pages and the figures.

    Raises:
        SystemExit: there is no record, or the README has no place for the table.
    """
    if not found:
        raise SystemExit("there is no record of the full table yet: make bench-full")
    parts = [INTRODUCTION.read_text()]
    for name, record in found.items():
        drawings = figures.drawings(record["rows"]) | gpu_figures.drawings(record["rows"])
        made = figures.write(drawings, pictures / name)
        parts += section(record, made, pictures / name, document.parent)
    parts += published()
    document.write_text("\n".join(parts).rstrip() + "\n")
    shown = [
        "\n".join(summary(record, pictures / name, readme.parent))
        for name, record in found.items()
        if any(row["group"] == "overview" for row in record["rows"])
    ]
    markdown.replace(readme, "benchmarks", "\n\n".join(shown))
    beside = [
        "\n".join(gpu.summary(record, title(record), version(record)))
        for record in found.values()
        if record.get("commits")
    ]
    markdown.replace(readme, "gpu", "\n\n".join(beside))


def section(record: Record, made: Sequence[str], folder: Path, base: Path) -> list[str]:
    """One machine."""
    rows = record["rows"]
    commits = record.get("commits", [])  # of a GPU's checks
    parts = [f"## {title(record)}", "", described(record), ""]
    parts += [gpu.described(record), ""] if commits else []
    parts += ["### In short", "", *short(rows), ""]
    parts += [*gpu.by_algorithm(rows), ""] if commits else []
    parts += [f"### {'Figures' if commits else 'Growth'}", ""] if made else []
    for name in made:
        words = ALTERNATIVES.get(name) or ALTERNATIVES[name.rpartition("-")[0]]
        parts += [figures.picture(folder, name, words, base), ""]
    parts += ["### Where we lose", "", *losing(rows), ""]
    parts += ["### All cases", ""]
    words = "Our best milliseconds, over which floor, and the ratio to each peer."
    if commits:
        words = "Best milliseconds, and nn.RNN's over ours as a ratio, bold where it is faster."
    parts += [words, ""]
    for name, group in GROUPS.items():
        mine = [one for one in lines(rows) if one.row["group"] == name]
        if mine and name != "grid":
            table = gpu.layer_table(mine, commits) if commits else full_table(mine)
            parts += [f"**{name}**: {group.about}" + SCOPES[group.scope], "", *table, ""]
    alone = [row for row in rows if row["scope"] == "kernel" and "times" in row]
    if alone:
        table = gpu.kernels_table(alone, commits)
        parts += ["### Kernels by themselves", "", *table, ""]
    memory = [row for row in rows if "mib" in row]
    if memory:
        words = "What a call holds at its peak on top of what was there before, results included."
        table = markdown.table(MEMORY_HEADER, map(memory_cells, memory), WORDS)
        parts += ["### Peak memory", "", words, "", *table, ""]
    return parts


ALTERNATIVES = {
    "speed-up": "Map of the speed-up over nn.RNN, B by H, inference and training",
    "width": "Microseconds a step against hidden units, every provider and the floor, B = 1 and 32",
    "length": "Milliseconds against steps, every provider and the floor, inference and training",
    "memory": "Peak MiB against steps, every provider, inference and training",
    **gpu_figures.ALTERNATIVES,
}
SCOPES = {"layer": "", "recurrence": "; the recurrence alone"}


def title(record: Record) -> str:
    what = record["machine"]
    if what["device"] == "cuda":
        return what["gpu"]
    return f"{what['cpu']}, {what['instruction_set']}, {what['threads']} threads"


def version(record: Record) -> str:
    """Of torch, whatever it was built with."""
    return record["machine"]["torch"].partition("+")[0]


def described(record: Record) -> str:
    """The machine and the versions, in a sentence or two."""
    what = record["machine"]
    known = [
        f"{name} {what[name]}" for name in ("torch", "triton", "onnxruntime") if what.get(name)
    ]
    if what["device"] == "cuda":
        cudnn = gpu.cudnn_version(what["cudnn"])
        place = f"Driver {what['driver']}, CUDA {what['cuda']}, cuDNN {cudnn}"
    else:
        sizes = ", ".join(f"{level} {size}" for level, size in what["caches"].items())
        place = f"{what['cores']} cores, {sizes}"
    dirty = " with changes" if what["dirty"] else ""
    parts = [f"{place}; {', '.join(known)}; commit {what['commit']}{dirty}, {what['date'][:10]}."]
    later = record.get("renewed", {})
    for commit in dict.fromkeys(later.values()):
        groups = ", ".join(name for name, of in later.items() if of == commit)
        parts.append(f"Measured later, at {commit}: {groups}.")
    measured = record["calibration"].get("measured", {})
    if what["device"] == "cpu" and "multiply_add_rate_all" in measured:
        bandwidth = measured["bandwidth_all"][max(measured["bandwidth_all"], key=int)]
        parts.append(
            f"At most {measured['multiply_add_rate_all'] / 1e9:.0f} GFLOP/s in float32, of which "
            f"torch's matrix product reaches {measured['gemm']['float32'] / 1e9:.0f}; "
            f"{bandwidth / 1e9:.0f} GB/s from memory."
        )
    absent = [f"{name} ({why})" for name, why in record["absent"].items()]
    if absent:
        parts.append(f"Absent: {'; '.join(absent)}.")
    return " ".join(parts)


def short(rows: Iterable[Row]) -> list[str]:
    """A line a group and mode: geometric means, and the worst; inference / training."""
    found: dict[tuple[str, str], dict[str, list[Line]]] = {}
    for one in lines(rows):
        steps = found.setdefault((one.row["group"], one.row["mode"]), {})
        steps.setdefault(one.row["step"], []).append(one)
    table = []
    for name, mode in sorted(found, key=lambda key: list(GROUPS).index(key[0])):
        pairs = [found[name, mode].get(step, []) for step in SHOWN]
        cells = [
            " / ".join(map(cell, pairs))
            for cell in (
                lambda mine: str(len(mine)),
                lambda mine: times(mean(one.over("nn.RNN") for one in mine)),
                lambda mine: times(mean(one.ratio for one in mine)),
                lambda mine: times(min((one.ratio for one in mine if one.ratio), default=None)),
                lambda mine: short_number(mean(one.over_bound for one in mine)),
            )
        ]
        table.append((name, mode, *cells))
    header = ("group", "mode", "cases", "over nn.RNN", "over the best peer", "the worst", "× floor")
    words = (
        "Geometric means over the cases of a group, of a ratio over those that have one, "
        "inference / training."
    )
    return [words, "", *markdown.table(header, table, 2)]


def losing(rows: Sequence[Row]) -> list[str]:
    """Every case in which a peer is faster, the worst first."""
    found = lines(rows)
    lost = sorted((one for one in found if one.is_losing), key=lambda one: one.ratio or 0)
    words = f"A peer is faster in {len(lost)} of {len(found)} cases."
    if not lost:
        return [words]
    header = ("(T, B, I, H)", "what", "mode", "step", "best peer", "its ms", "ours", "ratio")
    table = [
        (
            str(one.shape),
            one.row["scope"],
            one.row["mode"],
            one.row["step"],
            one.baseline or "",
            number(one.baseline_ms),
            number(one.ms),
            times(one.ratio),
        )
        for one in lost
    ]
    return [words, "", *markdown.table(header, table, 5)]


def full_table(mine: Sequence[Line]) -> list[str]:
    """A line a case, a column a peer."""
    names = dict.fromkeys(
        name for one in mine for name in one.row["times"] if not records.is_fastrnn(name)
    )
    modes = dict.fromkeys(one.row["mode"] for one in mine)
    header = ["(T, B, I, H)", *(["mode"] if len(modes) > 1 else []), "step"]
    words = len(header)
    table = []
    for one in mine:
        floor = one.row.get("floor", {})
        table.append(
            [
                str(one.shape),
                *([one.row["mode"]] if len(modes) > 1 else []),
                one.row["step"],
                number(one.ms),
                short_number(one.over_bound),
                max(floor, key=floor.__getitem__, default="–"),
                *(cell(one, name) for name in names),
            ]
        )
    return markdown.table([*header, "ours, ms", "× floor", "floor", *names], table, words)


def cell(one: Line, name: str) -> str:
    """The ratio to a peer, or why there is none."""
    if name in one.row.get("too_long_s", {}):
        return f"{one.row['too_long_s'][name]:.0f} s"
    return "wrong" if name in one.row.get("wrong", {}) else times(one.over(name))


def published() -> list[str]:
    """What others have published, word of its source beside it."""
    parts = ["## Published by others", ""]
    parts += ["Not measured here: quoted, each with its source and setup.", ""]
    for entry in json.loads(PUBLISHED.read_text()):
        parts += [f"### {entry['title']}", "", entry["setup"], ""]
        parts += [
            *markdown.table(entry["header"], entry["rows"], 1),
            "",
            f"Source: <{entry['source']}>",
            "",
        ]
    return parts


def summary(record: Record, folder: Path, base: Path) -> list[str]:
    """The README's part: the overview's table, what we lose, and the map of speed-ups."""
    rows = record["rows"]
    pairs: dict[str, dict[str, Line]] = {}
    for one in lines(row for row in rows if row["group"] == "overview"):
        pairs.setdefault(str(one.shape), {})[one.row["step"]] = one
    header = ["(T, B, I, H)"]
    for step in SHOWN:
        header += [f"{step}: ours", "best peer", "ratio", "× floor"]
    table = [
        [shape, *(cell for step in SHOWN for cell in summary_cells(found.get(step)))]
        for shape, found in pairs.items()
    ]
    lost = sorted((one for one in lines(rows) if one.is_losing), key=lambda one: one.ratio or 0)
    found = lines(rows)
    parts = [*markdown.table(header, table, 1), ""]
    parts += [CAPTION.format(title=title(record), torch=version(record), count=len(found)), ""]
    parts += [lost_in_words(lost, len(found)), ""]
    name = "speed-up-float32"
    if (folder / f"{name}.png").exists():
        parts += [figures.picture(folder, name, ALTERNATIVES["speed-up"], base)]
    return parts


def summary_cells(one: Line | None) -> list[str]:
    if one is None:
        return ["–"] * 4
    peer = f"{number(one.baseline_ms)} {one.baseline}" if one.baseline else "–"
    ratio = times(one.ratio)
    bold = ratio if ratio.startswith("*") else f"**{ratio}**"
    return [number(one.ms), peer, bold, short_number(one.over_bound)]


def lost_in_words(lost: Sequence[Line], count: int) -> str:
    """What of all cases is lost, where, and how much at worst."""
    if not lost:
        return f"No peer is faster in any of the {count} cases."
    shown = [
        f"{one.shape} {'' if one.row['mode'] == 'float32' else one.row['mode'] + ' '}"
        f"{one.row['step']} {one.ratio:.2f}× ({one.baseline})"
        for one in lost[:LISTED]
    ]
    few = sum(one.shape.T <= FEW_STEPS for one in lost)
    rest = f"; the {LISTED} worst" if len(lost) > LISTED else ""
    return (
        f"A peer is faster in {len(lost)} of the {count} cases, {few} of them of no more than "
        f"{FEW_STEPS} steps, which leave little to fuse{rest}: {'; '.join(shown)}."
    )
