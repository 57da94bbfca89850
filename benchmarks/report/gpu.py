"""A GPU's records made into one, and the tables of it: layers beside nn.RNN on cuDNN, and kernels.

Of every case the newest measurement counts, so that a short run renews what it reached and leaves
the rest as it was. Which of our backends `auto` takes follows from the rules of `fastrnn.ops`; ours
is then the time that was measured of that backend, and there is none where there was no such time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastrnn.ops.backends import cuda
from fastrnn.ops.backends.triton.table import FASTEST, FASTEST_FROM, VERIFIED, Sizes, choose

from ..precision import MODES
from ..roofline import gpu as roofline
from ..shapes import Shape
from . import markdown, records
from .records import Record, Row
from .tables import Line, lines, mean, number, short_number, times

#: What must be the same of two records for their rows to stand in one table.
SAME = ("gpu", "driver", "cuda", "cudnn", "torch", "triton")

#: Behind a case, for the commit it was measured at: the oldest has no mark.
MARKS = ("", " †", " ‡", " §", " ¶")

#: The kernels, a column each.
KERNELS = (
    *("triton.rows", "triton.single_cta", "triton.single_cta_gluon", "triton.grid"),
    *("cuda.cluster", "cuda.grid", "cuda.step"),
)

#: Up to so many steps, a layer takes as long as the call of it.
SHORT_STEPS = 100

#: What the README shows: shapes and modes.
SHOWN = (
    (Shape(100, 32, 8, 50), "tf32"),
    (Shape(1000, 32, 8, 50, activation="relu"), "tf32"),
    (Shape(1024, 16, 64, 64), "tf32"),
    (Shape(1024, 16, 128, 128), "tf32"),
    (Shape(512, 64, 512, 512), "tf32"),
    (Shape(512, 64, 1024, 1024), "tf32"),
    (Shape(1024, 16, 128, 128), "float16"),
    (Shape(512, 64, 512, 512), "float16"),
    (Shape(512, 64, 1024, 1024), "float16"),
)


def combined(every: Sequence[Record]) -> Record:
    """Of records of one GPU, oldest first, one: of every case the newest row, with its `commit`.

    The floors are of the best that any of them has measured. `auto` in a row of a layer names the
    provider, in that of kernels the kernel, that `fastrnn.set_backend("auto")` takes.
    """
    last = every[-1]
    alike = [one for one in every if all(_of(one, name) == _of(last, name) for name in SAME)]
    rates = roofline.best_of(last["machine"]["gpu"], [one["calibration"] for one in alike])
    rows: dict[tuple[str, ...], Row] = {}
    for record in alike:
        for row in record["rows"]:
            new = {**row, "commit": record["machine"]["commit"]}
            if rates is not None and "floor" in row:
                new["floor"] = records.bounds(records.case(row), rates)
            choice = auto(new, record["machine"])
            if choice is not None and "times" in new:
                new["auto"] = choice
            key = (row["group"], *records.key(row))
            rows[key] = new
    left = {row["commit"] for row in rows.values()}
    commits = dict.fromkeys(_of(one, "commit") for one in alike if _of(one, "commit") in left)
    return {**last, "rows": list(rows.values()), "commits": list(commits)}


def _of(record: Record, name: str) -> Any:
    return record["machine"].get(name)


def auto(row: Row, machine: dict[str, Any]) -> str | None:
    """What `auto` takes for a row's layer, or for its kernel; None where that is not known."""
    if "fastrnn" in row.get("times", ()):
        return None  # it was itself measured
    rates = roofline.machine(machine["gpu"])
    if rates is None:
        return None
    shape, capability = Shape(**row["work"]), tuple(machine["capability"])
    sizes = Sizes(
        shape.B,
        shape.directions * shape.groups,
        shape.H,
        MODES[row["mode"]].products or "",
        capability,
        rates.shared,
        machine["processors"],
        wgmma=capability == (9, 0) and machine.get("triton") is not None,
    )
    kernel = choose(sizes)
    fastest = kernel in FASTEST and shape.T >= FASTEST_FROM
    if fastest and (kernel, capability) in VERIFIED:
        return f"triton.{kernel}" if row["scope"] == "kernel" else "fastrnn.triton"
    if capability not in cuda.VERIFIED:
        return None
    if row["scope"] != "kernel":
        return "fastrnn.cuda"
    chosen = (name for name, choice in row["choices"].items() if choice["chosen"])
    return next((name for name in chosen if name.startswith("cuda.")), None)


def algorithm(shape: Shape, mode: str, forward: bool) -> str:
    """Which algorithm torch asks cuDNN for, by the rules of its RNN.cpp (get_algo) for Hopper.

    bfloat16 has a name of its own: torch asks as for float32, and the times are others.
    """
    if mode == "bfloat16":
        return "bfloat16"
    if not shape.packed:
        if (384 if forward else 256) >= shape.H:
            return "PERSIST_STATIC_SMALL_H"
        if (
            mode == "float16"
            and shape.layers == shape.directions == 1
            and shape.H <= 1024
            and shape.H % 128 == shape.I % 128 == shape.B % 8 == 0
            and shape.B <= 128
            and (shape.B < 96 or shape.H < 896)
        ):
            return "PERSIST_STATIC"
    return "STANDARD"


def asked(row: Row) -> str:
    """The same of a row: of training both, where the backward's is another: H of 257 to 384."""
    shape = Shape(**row["work"])
    if row["scope"] == "recurrence":
        shape = Shape(**{**row["work"], "I": 1})  # nn.RNN has it as a layer of one feature
    forward, backward = (algorithm(shape, row["mode"], which) for which in (True, False))
    if forward == backward:
        return forward
    return f"{forward}, H > 256" if row["step"] != "training" else f"{forward}, then {backward}"


def cells(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, list[Line]]]:
    """Lines beside nn.RNN by what torch asks for, and how many steps; of these by mode and step."""
    found: dict[tuple[str, str], dict[str, list[Line]]] = {}
    for one in lines(rows):
        if one.over("nn.RNN") is None or one.row["step"] == "forward":
            continue
        few = f"≤ {SHORT_STEPS}" if one.shape.T <= SHORT_STEPS else f"> {SHORT_STEPS}"
        mine = found.setdefault((asked(one.row), few), {})
        mine.setdefault(f"{one.row['mode']} {one.row['step']}", []).append(one)
    return dict(sorted(found.items()))


def by_algorithm(rows: Iterable[Row]) -> list[str]:
    """Geometric means of nn.RNN's time over ours, and the worst."""
    table = []
    for (name, few), found in cells(rows).items():
        for mode in MODES:
            pair = [found.get(f"{mode} {step}", []) for step in ("inference", "training")]
            if any(pair):
                table.append((name, few, mode, *(cell for mine in pair for cell in _means(mine))))
    header = ["torch asks cuDNN for", "T", "mode"]
    for step in ("inference", "training"):
        header += [f"{step}: cases", "mean", "the worst"]
    words = (
        "Geometric means of nn.RNN's time over ours, by the algorithm that torch asks cuDNN for: "
        "PERSIST_STATIC_SMALL_H where H ≤ 384, backward 256, and no row is packed; PERSIST_STATIC "
        "in float16 for one layer and direction where H and I are multiples of 128, H ≤ 1024, and "
        "B is a multiple of 8 up to 128 (below 96 for H ≥ 896); STANDARD for the rest. These are "
        "torch's rules; what cuDNN then runs it does not say, and in float32 its times at H of 264 "
        "and 384 are not of the kind of the smaller ones, so these stand apart. So does bfloat16: "
        "torch asks as for float32, but nn.RNN takes many times as long as in float16."
    )
    return [words, "", *markdown.table(header, table, 3)]


def _means(mine: Sequence[Line]) -> tuple[str, str, str]:
    ratios = [one.over("nn.RNN") for one in mine]
    worst = min((ratio for ratio in ratios if ratio is not None), default=None)
    return str(len(mine)) if mine else "–", times(mean(ratios)), times(worst)


def mark(row: Row, every: Sequence[str]) -> str:
    """Behind a case, which commit it was measured at."""
    return MARKS[min(every.index(row["commit"]), len(MARKS) - 1)]


def described(record: Record) -> str:
    """Which rows are of which commit, and what ours are."""
    every = record["commits"]
    counts = {commit: sum(row["commit"] == commit for row in record["rows"]) for commit in every}
    parts = []
    if len(every) > 1:
        first, *later = every
        named = [
            f"{counts[commit]}, marked{mark({'commit': commit}, every)}, of {commit}"
            for commit in later
        ]
        parts.append(
            f"Of every case the newest measurement counts: {counts[first]} are of commit {first}, "
            f"{'; '.join(named)}."
        )
    if any("auto" in row for row in record["rows"]):
        parts.append(
            "Each of our backends was measured by its name. *Ours* is the time measured of the one "
            'that `fastrnn.set_backend("auto")` takes of our kernels, by the rules of '
            f"`fastrnn/ops`: from {FASTEST_FROM} steps on Triton's `rows` (H ≤ 128, while all rows "
            "of the batch run at once) and its Gluon kernel (half precision, H ≤ 256), for all "
            "else the CUDA kernels. Calls that cuDNN was faster at `auto` leaves to cuDNN, "
            "whatever stands here."
        )
    parts.append(
        "*float32* is strict for both sides, *tf32* rounds the factors of all products for both, "
        "as torch by its default lets cuDNN do."
    )
    return " ".join(parts)


def layer_table(mine: Sequence[Line], every: Sequence[str]) -> list[str]:
    """A line a case, like beside like: a table for each mode."""
    parts = []
    for mode in dict.fromkeys(one.row["mode"] for one in mine):
        these = [one for one in mine if one.row["mode"] == mode]
        baselines = dict.fromkeys(
            name for one in these for name in one.row["times"] if not records.is_fastrnn(name)
        )
        table = []
        for one in these:
            other = [
                name for name in one.row["times"] if records.is_fastrnn(name) and name != one.ours
            ]
            row = [f"{one.shape}{mark(one.row, every)}", one.row["step"], _short(one.ours)]
            row += [number(one.ms), short_number(one.over_bound)]
            for name in baselines:
                theirs = one.row["times"].get(name)
                row += [number(theirs["ms"][0]) if theirs else "–", times(one.over(name))]
            others = [f"{_short(name)} {number(one.row['times'][name]['ms'][0])}" for name in other]
            table.append([*row, ", ".join(others) or "–"])
        header = ["(T, B, I, H)", "step", "by", "ours, ms", "× floor"]
        header += [cell for name in baselines for cell in (f"{name}, ms", "ratio")]
        parts += [f"*{mode}*", "", *markdown.table([*header, "our other, ms"], table, 3), ""]
    return parts[:-1]


def _short(name: str) -> str:
    return name.removeprefix("fastrnn.") if "." in name else "auto"


def kernels_table(rows: Sequence[Row], every: Sequence[str]) -> list[str]:
    """Of every shape and direction the kernels, the floor, and what `auto` takes."""
    names = [name for name in KERNELS if any(name in row["times"] for row in rows)]
    table, slower = [], []
    for row in rows:
        us = {name: 1e3 * one["ms"][2] / row["work"]["T"] for name, one in row["times"].items()}
        fastest, choice = min(us, key=us.__getitem__), row.get("auto")
        floor = 1e3 * max(row["floor"].values()) / row["work"]["T"] if "floor" in row else None
        over = us[choice] / floor if choice in us and floor else None
        if choice in us:
            slower.append(us[choice] / us[fastest])
        cells = [_kernel(us.get(name), name == fastest, name == choice) for name in names]
        case = f"{Shape(**row['work'])}{mark(row, every)}"
        least = number(floor)
        table.append([case, row["mode"], row["step"], least, short_number(over), *cells])
    header = ["(T, B, I, H)", "mode", "direction", "floor", "× floor", *names]
    words = "Median device time, in µs a step, with L2 flushed before each call: **the fastest**"
    if not slower:
        return [words + ".", "", *markdown.table(header, table, 3)]
    best = sum(factor == 1 for factor in slower)
    words += (
        "; \\* which of them `auto` takes, whose time over the floor is × floor. It is the fastest "
        f"in {best} of {len(slower)} rows, and takes {mean(slower):.2f} times as long as the "
        f"fastest in the geometric mean, {max(slower):.2f} times at worst."
    )
    return [words, "", *markdown.table(header, table, 3)]


def _kernel(us: float | None, is_fastest: bool, is_chosen: bool) -> str:
    if us is None:
        return "–"
    shown = f"**{number(us)}**" if is_fastest else number(us)
    return shown + (" \\*" if is_chosen else "")


def summary(record: Record, title: str, torch: str) -> list[str]:
    """The README's table: a few layers beside nn.RNN; and the means of all, and what we lose."""
    found = {
        (one.shape, one.row["mode"], one.row["step"]): one
        for one in lines(record["rows"])
        if one.row["scope"] == "layer"
    }
    table = []
    for shape, mode in SHOWN:
        pair = [found.get((shape, mode, step)) for step in ("inference", "training")]
        if any(pair):
            table.append([str(shape), mode, *(cell for one in pair for cell in _beside(one))])
    if not table:
        return []
    header = ["(T, B, I, H)", "mode"]
    for step in ("inference", "training"):
        header += [f"{step}: ours", "nn.RNN", "ratio", "× floor"]
    cudnn = record["machine"]["cudnn"]
    caption = (
        f"Milliseconds, ratio and floor as above; {title}, torch {torch}, cuDNN "
        f'{cudnn_version(cudnn)}. Both sides use the mode in the table. "Ours" is the kernel '
        "that `auto` takes when it does not run nn.RNN itself. [docs/benchmarks.md]"
        "(docs/benchmarks.md) has all "
        f"{len(_beside_nn_rnn(record['rows']))} cases beside nn.RNN, strict float32 and bfloat16 "
        "too, and every kernel by itself."
    )
    return [*markdown.table(header, table, 2), "", caption, "", in_words(record["rows"])]


def in_words(rows: Sequence[Row]) -> str:
    """The means of what is beside nn.RNN, and where it is faster."""
    by: dict[str, dict[str, list[Line]]] = {}
    for (name, few), found in cells(rows).items():
        first = name.partition(",")[0]
        short = few.startswith("≤") and first == "PERSIST_STATIC_SMALL_H"
        for kind, mine in found.items():
            step = kind.partition(" ")[2]
            label = f"{first} short" if short else first
            if "," not in name:
                by.setdefault(label, {}).setdefault(step, []).extend(mine)
    said = [
        f"{words}: {' / '.join(times(mean(one.over('nn.RNN') for one in mine)) for mine in pair)}"
        for label, words in _WORDS.items()
        if (pair := [by.get(label, {}).get(step, []) for step in ("inference", "training")])
        and any(pair)
    ]
    beside = _beside_nn_rnn(rows)
    lost = [one for one in beside if (one.over("nn.RNN") or 1) < 1]
    few = sum(one.shape.T <= SHORT_STEPS for one in lost)
    widest = max((one.shape.H for one in lost), default=0)
    worst = min((one.over("nn.RNN") or 1 for one in lost), default=1.0)
    return (
        "nn.RNN's time over ours, geometric means, inference / training. "
        + "; ".join(said)
        + f". nn.RNN is faster in {len(lost)} of {len(beside)} cases, all of H ≤ {widest}: {few} "
        f"of no more than {SHORT_STEPS} steps, where the call itself takes the time and cuDNN's "
        f"takes less (at worst {worst:.2f}×), and {len(lost) - few} longer ones."
    )


_WORDS = {
    "PERSIST_STATIC_SMALL_H": "Where cuDNN too keeps a small W_hh on the chip (H ≤ 256), over "
    f"{SHORT_STEPS} steps",
    "PERSIST_STATIC_SMALL_H short": f"the same, up to {SHORT_STEPS} steps",
    "PERSIST_STATIC": "float16 where cuDNN keeps larger ones",
    "STANDARD": "all else in float32, tf32 and float16",
    "bfloat16": "bfloat16, in which a small layer takes nn.RNN about as long as a large one",
}


def _beside_nn_rnn(rows: Iterable[Row]) -> list[Line]:
    return [one for one in lines(rows) if one.over("nn.RNN") is not None]


def cudnn_version(number: int) -> str:
    """9.19.0 of 91900."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _beside(one: Line | None) -> list[str]:
    theirs = one.row["times"].get("nn.RNN") if one else None
    if one is None or theirs is None:
        return ["–"] * 4
    ratio = times(one.over("nn.RNN"))
    bold = ratio if ratio.startswith("*") else f"**{ratio}**"
    return [number(one.ms), number(theirs["ms"][0]), bold, short_number(one.over_bound)]
