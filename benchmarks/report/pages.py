"""The pages of measurements: docs/benchmarks.md, and a page with all cases of each machine.

docs/benchmarks.md is a summary. `write` also replaces the generated blocks of README.md and of
docs/gpu-notes.md, and draws the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..environment import ROOT
from ..groups import GROUPS
from . import figures, gpu, gpu_figures, markdown, readme, records
from .cells import by_cell
from .newest import newest
from .records import Record, Row
from .tables import (
    MEMORY_HEADER,
    PASSES,
    WORDS,
    Line,
    lines,
    losing,
    mean,
    memory_cells,
    memory_ratios,
    number,
    short_number,
    times,
)

__all__ = ["newest", "write"]

#: Paths in the repository.
DOCUMENT = Path("docs/benchmarks.md")
FULL = Path("docs/benchmarks")
FIGURES = Path("docs/figures")
README = Path("README.md")
GPU_NOTES = Path("docs/gpu-notes.md")

INTRODUCTION = Path(__file__).parent / "introduction.md"
PUBLISHED = Path(__file__).parent / "published.json"

ALTERNATIVES = {
    "speed-up": "Map of the speed-up over nn.RNN, B by H, inference and training",
    "width": "Microseconds per step against hidden units, every implementation and the lower "
    "bound, B = 1 and 32",
    "length": "Milliseconds against steps, every implementation and the lower bound, inference "
    "and training",
    "memory": "Peak MiB against steps, every implementation, inference and training",
    **gpu_figures.ALTERNATIVES,
}
#: The packages whose versions are shown.
VERSIONS = ("torch", "triton", "onnxruntime", "openvino", "jax")

SCOPES = {"layer": "", "recurrence": "; the recurrence alone"}


def write(found: dict[str, Record], root: Path = ROOT) -> list[Path]:
    """Write the pages and the figures, and return the paths of the pages.

    Raises:
        SystemExit: there is no record, or README.md or docs/gpu-notes.md has no generated block.
    """
    if not found:
        raise SystemExit("there is no record of the full table yet: run make bench-full")
    summary = [INTRODUCTION.read_text()]
    pages = [root / DOCUMENT]
    (root / FULL).mkdir(exist_ok=True)
    for name, record in found.items():
        drawings = figures.drawings(record["rows"]) | gpu_figures.drawings(record["rows"])
        drawn = figures.write(drawings, root / FIGURES / name)
        pictures = [
            figures.picture(root / FIGURES / name, each, alternative(each), root / DOCUMENT.parent)
            for each in drawn
        ]
        summary += machine_summary(record, pictures, full_link(name))
        pages.append(root / FULL / f"{name}.md")
        pages[-1].write_text(_document(machine_page(record)))
    summary += published()
    (root / DOCUMENT).write_text(_document(summary))
    shown = readme.newest_cpu(found)
    block = [] if shown is None else readme.block(found[shown], _speed_up_map(root, shown))
    markdown.replace(root / README, "benchmarks", "\n".join(block))
    gpus = [
        "\n".join(gpu.summary(record, full_link(name)))
        for name, record in found.items()
        if record.get("commits")
    ]
    markdown.replace(root / GPU_NOTES, "gpu", "\n\n".join(gpus))
    return [*pages, root / README, root / GPU_NOTES]


def _document(parts: Iterable[str]) -> str:
    return "\n".join(parts).rstrip() + "\n"


def _speed_up_map(root: Path, machine: str) -> str | None:
    """The figure of the README, or None if the record has no such cases."""
    folder, name = root / FIGURES / machine, "speed-up-float32"
    if not (folder / f"{name}.png").exists():
        return None
    return figures.picture(folder, name, alternative(name), root)


def full_link(machine: str) -> str:
    """A link from a page in docs/ to the page of all cases of a machine."""
    return f"./{FULL.name}/{machine}.md"


def alternative(name: str) -> str:
    """The text that stands for a figure; the name may end with a mode."""
    return ALTERNATIVES.get(name) or ALTERNATIVES[name.rpartition("-")[0]]


def machine_summary(record: Record, pictures: Sequence[str], full: str) -> list[str]:
    """The section of one machine in docs/benchmarks.md, with a link to the page of all cases."""
    rows = record["rows"]
    is_gpu = bool(record.get("commits"))
    count = len(lines(rows))
    parts = [f"## {records.title(record)}", "", described(record), ""]
    parts += [gpu.described(record), ""] if is_gpu else []
    parts += [f"[All {count} cases]({full}), each with its time and its ratios.", ""]
    cells = by_cell(rows)
    parts += ["### Cells", "", *cells, ""] if cells else []
    parts += ["### Geometric means", "", *by_group(rows), ""]
    parts += [*gpu.by_algorithm(rows), ""] if is_gpu else []
    if pictures:
        parts += [f"### {'Figures' if is_gpu else 'Growth'}", ""]
        parts += [part for picture in pictures for part in (picture, "")]
    parts += ["### Where a baseline is faster", "", *where_losing(rows), ""]
    memory = memory_summary(rows)
    return parts + (["### Peak memory", "", *memory, ""] if memory else [])


def machine_page(record: Record) -> list[str]:
    """The page of all cases of one machine."""
    rows = record["rows"]
    commits = record.get("commits", [])
    parts = [f"# {records.title(record)}: all cases", ""]
    parts += ["`python -m benchmarks report` writes this page.", "", described(record), ""]
    parts += [gpu.described(record), ""] if commits else []
    columns = (
        "The best time of ours and of nn.RNN in milliseconds, and nn.RNN's over ours as a ratio."
        if commits
        else "Our best time in milliseconds, the largest lower bound, and the ratio to each "
        "baseline."
    )
    parts += [
        f"{columns} A bold ratio marks a case in which the baseline is faster. "
        f"[Benchmarks](../{DOCUMENT.name}) explains the terms and the method.",
        "",
    ]
    for name, group in GROUPS.items():
        mine = [one for one in lines(rows) if one.row["group"] == name]
        if mine:
            table = gpu.layer_table(mine, commits) if commits else full_table(mine)
            parts += [f"## {name}", "", f"{_sentence(group.about + SCOPES[group.scope])}", ""]
            parts += [*table, ""]
    kernels = [row for row in rows if row["scope"] == "kernel" and "times" in row]
    if kernels:
        parts += ["## Kernels alone", "", *gpu.kernels_table(kernels, commits), ""]
    memory = [row for row in rows if "mib" in row]
    if memory:
        words = "The peak of the memory that a call allocates, its results included."
        table = markdown.table(MEMORY_HEADER, map(memory_cells, memory), WORDS)
        parts += ["## Peak memory", "", words, "", *table, ""]
    return parts


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def described(record: Record) -> str:
    """The machine and the versions, in a few sentences."""
    what = record["machine"]
    known = [f"{name} {what[name]}" for name in VERSIONS if what.get(name)]
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
            f"Peak rates: {measured['multiply_add_rate_all'] / 1e9:.0f} GFLOP/s in float32, of "
            f"which torch's matrix product reaches {measured['gemm']['float32'] / 1e9:.0f}; "
            f"{bandwidth / 1e9:.0f} GB/s from memory."
        )
    absent = [f"{name} ({why})" for name, why in record["absent"].items()]
    if absent:
        parts.append(f"Not available: {'; '.join(absent)}.")
    return " ".join(parts)


def by_group(rows: Iterable[Row]) -> list[str]:
    """The means of each group and mode, inference / training."""
    found: dict[tuple[str, str], dict[str, list[Line]]] = {}
    for one in lines(rows):
        passes = found.setdefault((one.row["group"], one.row["mode"]), {})
        passes.setdefault(one.row["step"], []).append(one)
    columns: dict[str, Callable[[list[Line]], str]] = {
        "cases": lambda mine: str(len(mine)),
        "over torch": lambda mine: times(mean(one.over_torch for one in mine)),
        "over the best baseline": lambda mine: times(mean(one.ratio for one in mine)),
        "worst": lambda mine: times(min((one.ratio for one in mine if one.ratio), default=None)),
        "× bound": lambda mine: short_number(mean(one.over_bound for one in mine)),
    }
    table = []
    for name, mode in sorted(found, key=lambda key: list(GROUPS).index(key[0])):
        pair = [found[name, mode].get(which, []) for which in PASSES]
        table.append((name, mode, *(" / ".join(map(cell, pair)) for cell in columns.values())))
    words = (
        "Geometric means over the cases of each group, inference / training. The mean of a ratio "
        "is over the cases that have it. *Over torch* is nn.RNN's, nn.LSTM's or nn.GRU's time over "
        "ours. *Worst* is the smallest ratio to the best baseline."
    )
    return [words, "", *markdown.table(("group", "mode", *columns), table, 2)]


def where_losing(rows: Sequence[Row]) -> list[str]:
    """Every case in which a baseline is faster, the worst first."""
    lost, count = losing(rows), len(lines(rows))
    words = f"A baseline is faster in {len(lost)} of {count} cases."
    if not lost:
        return [words]
    header = ("(T, B, I, H)", "scope", "mode", "pass", "best baseline", "its ms", "ours", "ratio")
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


def memory_summary(rows: Iterable[Row]) -> list[str]:
    """The means of the peaks, by pass."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if "mib" in row:
            found.setdefault(row["step"], []).append(row)
    if not found:
        return []
    table = []
    for which, mine in found.items():
        over_results, over_ours = zip(*map(memory_ratios, mine), strict=True)
        worst = min((ratio for ratio in over_ours if ratio is not None), default=None)
        over = [f"{number(mean(over_results))}×", times(mean(over_ours)), times(worst)]
        table.append((which, str(len(mine)), *over))
    header = ("pass", "cases", "ours over the results", "the lowest baseline over ours", "worst")
    words = (
        "Geometric means of our peak over the size of the results alone, and of the lowest peak of "
        "a baseline over ours."
    )
    return [words, "", *markdown.table(header, table, 1)]


def full_table(mine: Sequence[Line]) -> list[str]:
    """A row for each case, a column for each baseline."""
    names = dict.fromkeys(
        name for one in mine for name in one.row["times"] if not records.is_fastrnn(name)
    )
    modes = dict.fromkeys(one.row["mode"] for one in mine)
    header = ["(T, B, I, H)", *(["mode"] if len(modes) > 1 else []), "pass"]
    words = len(header)
    table = []
    for one in mine:
        bounds = one.row.get("floor", {})
        table.append(
            [
                str(one.shape),
                *([one.row["mode"]] if len(modes) > 1 else []),
                one.row["step"],
                number(one.ms),
                short_number(one.over_bound),
                max(bounds, key=bounds.__getitem__, default="–"),
                *(cell(one, name) for name in names),
            ]
        )
    return markdown.table([*header, "ours, ms", "× bound", "bound", *names], table, words)


def cell(one: Line, name: str) -> str:
    """The ratio to a baseline, or why there is none."""
    if name in one.row.get("too_long_s", {}):
        return f"{one.row['too_long_s'][name]:.0f} s"
    return "wrong" if name in one.row.get("wrong", {}) else times(one.over(name))


def published() -> list[str]:
    """Results that others have published, each with its source."""
    parts = ["## Published by others", ""]
    parts += ["These results were not measured here. Each has its source and setup.", ""]
    for entry in json.loads(PUBLISHED.read_text()):
        parts += [f"### {entry['title']}", "", entry["setup"], ""]
        parts += [
            *markdown.table(entry["header"], entry["rows"], 1),
            "",
            f"Source: <{entry['source']}>",
            "",
        ]
    return parts
