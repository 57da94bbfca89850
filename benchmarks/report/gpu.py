"""The combined record of a GPU, and its tables: layers compared with nn.RNN on cuDNN, and kernels.

The newest measurement of each case counts, so that a short run replaces only the cases it reached.
The rules of `fastrnn.ops` tell which of our backends `auto` takes. "Ours" is the measured time of
that backend; a case without such a time is left out.
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
from .tables import PASSES, Line, lines, mean, number, short_number, times

#: Entries of `machine` that must be equal for rows of two records to share a table.
SAME = ("gpu", "driver", "cuda", "cudnn", "torch", "triton")

#: Marks behind a case, for the commit it was measured at; the oldest has none.
MARKS = ("", " †", " ‡", " §", " ¶")

#: The columns of the table of kernels.
KERNELS = (
    *("triton.rows", "triton.single_cta", "triton.single_cta_gluon", "triton.grid"),
    *("cuda.cluster", "cuda.grid", "cuda.step"),
)

#: Up to so many steps, a layer takes as long as the overhead of its call.
SHORT_STEPS = 100

#: The shapes and modes in docs/gpu-notes.md.
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
    """Combine the records of one GPU, oldest first: the newest row of each case, with its `commit`.

    The lower bounds are computed from the best rates that any of the records measured. The entry
    `auto` names the provider that `fastrnn.set_backend("auto")` takes for a layer, or the kernel.
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
    """The provider that `auto` takes for a row's layer, or the kernel; None if it is unknown."""
    if "fastrnn" in row.get("times", ()):
        return None  # `auto` itself was measured
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
    """The algorithm that torch requests from cuDNN on Hopper, by the rules of get_algo in RNN.cpp.

    bfloat16 has a name of its own: torch requests the algorithm of float32, but the times differ.
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


def requested(row: Row) -> str:
    """The algorithm of a row; in training both, if the backward pass has another (H 257 to 384)."""
    shape = Shape(**row["work"])
    if row["scope"] == "recurrence":
        shape = Shape(**{**row["work"], "I": 1})  # nn.RNN runs a layer of one feature
    forward, backward = (algorithm(shape, row["mode"], which) for which in (True, False))
    if forward == backward:
        return forward
    return f"{forward}, H > 256" if row["step"] != "training" else f"{forward}, then {backward}"


def cells(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, list[Line]]]:
    """Lines with nn.RNN, by the algorithm and the number of steps, then by mode and pass."""
    found: dict[tuple[str, str], dict[str, list[Line]]] = {}
    for one in lines(rows):
        if one.over("nn.RNN") is None or one.row["step"] == "forward":
            continue
        few = f"≤ {SHORT_STEPS}" if one.shape.T <= SHORT_STEPS else f"> {SHORT_STEPS}"
        mine = found.setdefault((requested(one.row), few), {})
        mine.setdefault(f"{one.row['mode']} {one.row['step']}", []).append(one)
    return dict(sorted(found.items()))


def by_algorithm(rows: Iterable[Row]) -> list[str]:
    """The means of nn.RNN's time over ours by cuDNN's algorithm, and the worst ratios."""
    table = []
    for (name, few), found in cells(rows).items():
        for mode in MODES:
            pair = [found.get(f"{mode} {which}", []) for which in PASSES]
            if any(pair):
                table.append((name, few, mode, *(cell for mine in pair for cell in _means(mine))))
    header = ["algorithm", "T", "mode"]
    for which in PASSES:
        header += [f"{which}: cases", "mean", "worst"]
    words = (
        "Geometric means of nn.RNN's time over ours, by the algorithm that torch requests from "
        "cuDNN:\n\n"
        "- PERSIST_STATIC_SMALL_H for H ≤ 384 (backward: 256) without packed rows.\n"
        "- PERSIST_STATIC in float16 for one layer and direction, if H and I are multiples of 128, "
        "H ≤ 1024, and B is a multiple of 8 up to 128 (below 96 for H ≥ 896).\n"
        "- STANDARD for all others.\n\n"
        "These are the rules of torch. cuDNN does not report what it runs. In float32 its times "
        "at H of 264 and 384 are unlike those at smaller H, so H > 256 has rows of its own. So has "
        "bfloat16: torch requests the algorithm of float32, but nn.RNN takes many times as long as "
        "in float16."
    )
    return [words, "", *markdown.table(header, table, 3)]


def _means(mine: Sequence[Line]) -> tuple[str, str, str]:
    ratios = [one.over("nn.RNN") for one in mine]
    worst = min((ratio for ratio in ratios if ratio is not None), default=None)
    return str(len(mine)) if mine else "–", times(mean(ratios)), times(worst)


def mark(row: Row, every: Sequence[str]) -> str:
    """The mark of the commit that a row was measured at."""
    return MARKS[min(every.index(row["commit"]), len(MARKS) - 1)]


def described(record: Record) -> str:
    """Which commit each row is from, and the meaning of "ours"."""
    every = record["commits"]
    counts = {commit: sum(row["commit"] == commit for row in record["rows"]) for commit in every}
    parts = []
    if len(every) > 1:
        first, *later = every
        named = [
            f"{counts[commit]}, marked{mark({'commit': commit}, every)}, are from {commit}"
            for commit in later
        ]
        parts.append(
            f"Each case shows its newest measurement: {counts[first]} are from commit {first}; "
            f"{'; '.join(named)}."
        )
    if any("auto" in row for row in record["rows"]):
        parts.append(
            "Each of our backends was measured by name. *Ours* is the measured time of the one "
            "that `auto` selects among our kernels, by the rules of `fastrnn/ops`. From "
            f"{FASTEST_FROM} steps on these are Triton's `rows` (H ≤ 128, while all rows of the "
            "batch run at once) and its Gluon kernel (half precision, H ≤ 256); in all other cases "
            "the CUDA kernels. `auto` leaves most calls for which cuDNN was faster to cuDNN; the "
            "tables show our kernels also there."
        )
    parts.append(
        "*float32* is strict on both sides. *tf32* rounds the factors of all products on both "
        "sides, as torch lets cuDNN do by default."
    )
    return " ".join(parts)


def layer_table(mine: Sequence[Line], every: Sequence[str]) -> list[str]:
    """A table for each mode, with a row for each case."""
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
        header = ["(T, B, I, H)", "pass", "by", "ours, ms", "× bound"]
        header += [cell for name in baselines for cell in (f"{name}, ms", "ratio")]
        header.append("our other backends, ms")
        parts += [f"*{mode}*", "", *markdown.table(header, table, 3), ""]
    return parts[:-1]


def _short(name: str) -> str:
    return name.removeprefix("fastrnn.") if "." in name else "auto"


def kernels_table(rows: Sequence[Row], every: Sequence[str]) -> list[str]:
    """A row for each case: the times of all kernels, the lower bound, and the choice of `auto`."""
    names = [name for name in KERNELS if any(name in row["times"] for row in rows)]
    table, slower = [], []
    for row in rows:
        us = {name: 1e3 * one["ms"][2] / row["work"]["T"] for name, one in row["times"].items()}
        fastest, choice = min(us, key=us.__getitem__), row.get("auto")
        bound = 1e3 * max(row["floor"].values()) / row["work"]["T"] if "floor" in row else None
        over = us[choice] / bound if choice in us and bound else None
        if choice in us:
            slower.append(us[choice] / us[fastest])
        cells = [_kernel(us.get(name), name == fastest, name == choice) for name in names]
        case = f"{Shape(**row['work'])}{mark(row, every)}"
        table.append([case, row["mode"], row["step"], number(bound), short_number(over), *cells])
    header = ["(T, B, I, H)", "mode", "direction", "bound", "× bound", *names]
    words = (
        "Median device time in µs per step, with L2 flushed before each call. *Bound* is the lower "
        "bound. The fastest kernel is **bold**."
    )
    if not slower:
        return [words, "", *markdown.table(header, table, 3)]
    best = sum(factor == 1 for factor in slower)
    words += (
        " \\* marks the kernel that `auto` takes, whose time over the lower bound is *× bound*. "
        f"It is the fastest in {best} of {len(slower)} rows. It takes {mean(slower):.2f} times as "
        f"long as the fastest in the geometric mean, and {max(slower):.2f} times at worst."
    )
    return [words, "", *markdown.table(header, table, 3)]


def _kernel(us: float | None, is_fastest: bool, is_chosen: bool) -> str:
    if us is None:
        return "–"
    shown = f"**{number(us)}**" if is_fastest else number(us)
    return shown + (" \\*" if is_chosen else "")


def summary(record: Record, full: str) -> list[str]:
    """The block of docs/gpu-notes.md: a few layers, and the means of all.

    Args:
        full: a link to the page of all cases.
    """
    found = {
        (one.shape, one.row["mode"], one.row["step"]): one
        for one in lines(record["rows"])
        if one.row["scope"] == "layer"
    }
    table = []
    for shape, mode in SHOWN:
        pair = [found.get((shape, mode, which)) for which in PASSES]
        if any(pair):
            table.append([str(shape), mode, *(cell for one in pair for cell in _compared(one))])
    if not table:
        return []
    header = ["(T, B, I, H)", "mode"]
    for which in PASSES:
        header += [f"{which}: ours", "nn.RNN", "ratio", "× bound"]
    cudnn = cudnn_version(record["machine"]["cudnn"])
    count = len(compared_to_nn_rnn(record["rows"]))
    caption = (
        f"Times are in milliseconds; {records.title(record)}, torch {records.torch_version(record)}"
        f", cuDNN {cudnn}. *Ratio* is nn.RNN's time over ours. *× bound* is our time over the "
        "lower bound of a roofline model. Both sides use the mode in the table. *Ours* is the "
        "kernel that `auto` takes when it does not run nn.RNN itself. "
        f"[The full tables]({full}) have all {count} cases with nn.RNN, in strict float32 and "
        "bfloat16 too, and every kernel alone."
    )
    return [*markdown.table(header, table, 2), "", caption, "", *means(record["rows"])]


def means(rows: Sequence[Row]) -> list[str]:
    """The means of all cases with nn.RNN, and where it is faster."""
    by: dict[str, dict[str, list[Line]]] = {}
    for (name, few), found in cells(rows).items():
        first = name.partition(",")[0]
        short = few.startswith("≤") and first == "PERSIST_STATIC_SMALL_H"
        for kind, mine in found.items():
            which = kind.partition(" ")[2]
            label = f"{first} short" if short else first
            if "," not in name:
                by.setdefault(label, {}).setdefault(which, []).extend(mine)
    table = [
        (words, *(times(mean(one.over("nn.RNN") for one in mine)) for mine in pair))
        for label, words in _WORDS.items()
        if (pair := [by.get(label, {}).get(which, []) for which in PASSES]) and any(pair)
    ]
    compared = compared_to_nn_rnn(rows)
    lost = [one for one in compared if (one.over("nn.RNN") or 1) < 1]
    few = sum(one.shape.T <= SHORT_STEPS for one in lost)
    widest = max((one.shape.H for one in lost), default=0)
    worst = min((one.over("nn.RNN") or 1 for one in lost), default=1.0)
    return [
        "Geometric means of nn.RNN's time over ours:",
        "",
        *markdown.table(("cases", *PASSES), table, 1),
        "",
        f"nn.RNN is faster in {len(lost)} of {len(compared)} cases, all with H ≤ {widest}. {few} "
        f"of these have at most {SHORT_STEPS} steps, where the overhead of the call dominates and "
        f"cuDNN's is smaller (at worst {worst:.2f}×). {len(lost) - few} are longer.",
    ]


_WORDS = {
    "PERSIST_STATIC_SMALL_H": f"H ≤ 256, where cuDNN too keeps W_hh on the chip; T > {SHORT_STEPS}",
    "PERSIST_STATIC_SMALL_H short": f"the same, T ≤ {SHORT_STEPS}",
    "PERSIST_STATIC": "float16, where cuDNN keeps a larger W_hh on the chip",
    "STANDARD": "all others in float32, tf32 and float16",
    "bfloat16": "bfloat16, in which a small layer takes nn.RNN about as long as a large one",
}


def compared_to_nn_rnn(rows: Iterable[Row]) -> list[Line]:
    """The lines that have a time of nn.RNN."""
    return [one for one in lines(rows) if one.over("nn.RNN") is not None]


def cudnn_version(number: int) -> str:
    """Format 91900 as 9.19.0."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _compared(one: Line | None) -> list[str]:
    theirs = one.row["times"].get("nn.RNN") if one else None
    if one is None or theirs is None:
        return ["–"] * 4
    ratio = times(one.over("nn.RNN"))
    bold = ratio if ratio.startswith("*") else f"**{ratio}**"
    return [number(one.ms), number(theirs["ms"][0]), bold, short_number(one.over_bound)]
