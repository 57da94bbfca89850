"""The block of README.md: one table, one figure, and the cases in which a baseline is faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import markdown, records
from .records import Record
from .tables import PASSES, Line, lines, losing, number, times

GROUP = "overview"

#: In a case of at most so many steps, the call takes about as long as its computation.
FEW_STEPS = 8

CAPTION = (
    "Best times in milliseconds, float32, {title}, torch {torch}; T steps, B batch rows, I input "
    "features, H hidden units. The baselines are {baselines}. They run in alternation with ours, "
    "and every result is verified before it is timed. *Ratio* is the median of the best baseline's "
    "time over ours. *Training* is forward and backward with all gradients."
)

#: The baselines of the group, as the caption names them.
BASELINES = {
    "nn.RNN": "nn.RNN",
    "eager loop": "a loop in PyTorch",
    "torch.compile": "that loop compiled",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "jax scan": "a compiled scan in JAX",
}
DOCUMENT = "docs/benchmarks.md"


def newest_cpu(found: Mapping[str, Record]) -> str | None:
    """The machine that the README shows: the CPU with the newest record of the overview."""
    dates = {
        name: record["machine"]["date"]
        for name, record in found.items()
        if record["machine"]["device"] == "cpu"
        and any(row["group"] == GROUP for row in record["rows"])
    }
    return max(dates, key=dates.__getitem__, default=None)


def block(record: Record, picture: str | None) -> list[str]:
    """The lines of the block."""
    pairs: dict[str, dict[str, Line]] = {}
    for one in lines(row for row in record["rows"] if row["group"] == GROUP):
        pairs.setdefault(str(one.shape), {})[one.row["step"]] = one
    header = ["(T, B, I, H)"]
    for which in PASSES:
        header += [f"{which}: ours", "best baseline", "ratio"]
    table = [
        [shape, *(cell for which in PASSES for cell in _cells(pair.get(which)))]
        for shape, pair in pairs.items()
    ]
    parts = [*markdown.table(header, table, 1), ""]
    words = {"title": records.title(record), "torch": records.torch_version(record)}
    parts += [CAPTION.format(**words, baselines=baselines(pairs.values())), ""]
    parts += [in_words(losing(record["rows"]), len(lines(record["rows"])))]
    return parts + (["", picture] if picture else [])


def baselines(pairs: Iterable[Mapping[str, Line]]) -> str:
    """The names of the baselines that were measured, as an enumeration."""
    measured = {name for pair in pairs for one in pair.values() for name in one.row["times"]}
    names = [words for name, words in BASELINES.items() if name in measured]
    return f"{', '.join(names[:-1])}, and {names[-1]}" if len(names) > 1 else "".join(names)


def _cells(one: Line | None) -> list[str]:
    if one is None:
        return ["–"] * 3
    baseline = f"{number(one.baseline_ms)} {one.baseline}" if one.baseline else "–"
    ratio = times(one.ratio)
    return [number(one.ms), baseline, ratio if ratio.startswith("*") else f"**{ratio}**"]


def in_words(lost: list[Line], count: int) -> str:
    """How many of all cases are slower than a baseline, where, and by how much at worst.

    Args:
        lost: the cases in which a baseline is faster, the worst first.
    """
    link = f"[Benchmarks]({DOCUMENT})"
    if not lost:
        return f"No baseline is faster in any of the {count} cases. {link} has the method."
    worst, few = lost[0], sum(one.shape.T <= FEW_STEPS for one in lost)
    mode = "" if worst.row["mode"] == "float32" else f"{worst.row['mode']} "
    return (
        f"A baseline is faster in {len(lost)} of the {count} cases. {few} of these have at most "
        f"{FEW_STEPS} steps, which leave little to fuse. The worst ratio is {worst.ratio:.2f}×: "
        f"{worst.shape} {mode}{worst.row['step']} ({worst.baseline}). {link} lists all of them, "
        "with the method and the growth with T, B and H."
    )
