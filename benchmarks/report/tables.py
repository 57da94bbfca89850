"""The tables of a record: our times, the best baseline, and the lower bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean

from ..cells import CELLS
from ..roofline.model import flops
from ..shapes import Shape
from .markdown import aligned
from .records import Row, case, is_fastrnn

#: The passes in the summaries.
PASSES = ("inference", "training")


@dataclass(frozen=True)
class Line:
    """One case of a table."""

    row: Row
    ours: str  #: the provider of ours that users get, if it was measured, or our fastest
    baseline: str | None  #: the fastest baseline, if any

    @property
    def shape(self) -> Shape:
        return Shape(**self.row["work"])

    @property
    def ms(self) -> float:
        """Our best time."""
        return self.row["times"][self.ours]["ms"][0]

    @property
    def baseline_ms(self) -> float | None:
        return None if self.baseline is None else self.row["times"][self.baseline]["ms"][0]

    @property
    def ratio(self) -> float | None:
        """The median over the turns of the best baseline's time over ours."""
        return self.over(self.baseline)

    @property
    def over_torch(self) -> float | None:
        """The ratio to torch's layer with the same cell."""
        return self.over(self.shape.of_cell.torch_layer)

    def over(self, baseline: str | None) -> float | None:
        """The ratio to any baseline, or None if that was not measured."""
        times = self.row["times"].get(baseline)
        return None if times is None else times["over"][self.ours]

    @property
    def over_bound(self) -> float | None:
        """Our best time over the lower bound."""
        return self.ms / max(self.row["floor"].values()) if "floor" in self.row else None

    @property
    def is_losing(self) -> bool:
        return self.ratio is not None and self.ratio < 1


def line(row: Row) -> Line | None:
    """The line of a row, or None if ours, or the backend that `auto` takes, has no time."""
    medians = {name: times["ms"][2] for name, times in row.get("times", {}).items()}
    used = row.get("auto") or _used(medians)
    if used not in medians or not is_fastrnn(used):
        return None
    return Line(row, used, _best_baseline(medians))


def _used(values: Mapping[str, float]) -> str | None:
    """The provider of ours that users get: `auto` if it was measured, or else the best."""
    ours = [name for name in values if is_fastrnn(name)]
    return "fastrnn" if "fastrnn" in ours else min(ours, key=values.__getitem__, default=None)


def _best_baseline(values: Mapping[str, float]) -> str | None:
    """The baseline with the lowest value."""
    others = [name for name in values if not is_fastrnn(name)]
    return min(others, key=values.__getitem__, default=None)


def lines(rows: Iterable[Row]) -> list[Line]:
    return [made for made in map(line, rows) if made is not None]


def losing(rows: Iterable[Row]) -> list[Line]:
    """The cases in which a baseline is faster, the worst first."""
    return sorted((one for one in lines(rows) if one.is_losing), key=lambda one: one.ratio or 0)


def number(value: float | None) -> str:
    """Format a number with three significant digits."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of the values that are not None."""
    known = [value for value in values if value is not None]
    return geometric_mean(known) if known else None


def times(ratio: float | None) -> str:
    """Format a ratio, in bold if we are slower."""
    if ratio is None:
        return "–"
    shown = f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.1f}×"
    return f"**{shown}**" if ratio < 0.995 else shown


def short_number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


HEADER = (
    *("(T, B, I, H)", "mode", "pass", "best baseline"),
    *("ours, ms", "GFLOP/s", "x bound", "baseline, ms", "ratio"),
)
MEMORY_HEADER = (
    *("(T, B, I, H)", "mode", "pass", "lowest baseline"),
    *("ours, MiB", "results", "baseline, MiB"),
)

#: The number of text columns in both.
WORDS = 4


def cells(one: Line) -> tuple[str, ...]:
    """A row of the table of times."""
    return (
        *(str(one.shape), one.row["mode"], one.row["step"], one.baseline or "–"),
        number(one.ms),
        number(flops(case(one.row)) / one.ms * 1e-6),
        "–" if one.over_bound is None else f"{one.over_bound:.1f}",
        number(one.baseline_ms),
        "–" if one.ratio is None else f"{one.ratio:.2f}",
    )


def memory_cells(row: Row) -> tuple[str, ...]:
    """A row of the table of peaks: ours, the size of the results, and the lowest baseline's."""
    mib: dict[str, float] = row["mib"]
    used, baseline = _used(mib), _best_baseline(mib)
    return (
        *(str(Shape(**row["work"])), row["mode"], row["step"], baseline or "–"),
        number(mib[used] if used else None),
        number(row["least_mib"]),
        number(mib[baseline] if baseline else None),
    )


def memory_ratios(row: Row) -> tuple[float | None, float | None]:
    """Our peak over the size of the results, and the lowest peak of a baseline over ours."""
    mib: dict[str, float] = row["mib"]
    used, baseline = _used(mib), _best_baseline(mib)
    if used is None:
        return None, None
    over_ours = mib[baseline] / mib[used] if baseline else None
    return mib[used] / row["least_mib"], over_ours


def summary(rows: Iterable[Row]) -> list[str]:
    """The lines of a record's tables for the terminal."""
    rows = list(rows)
    found = lines(rows)
    text = aligned([HEADER, *map(cells, found)], WORDS) if found else []
    memory = [row for row in rows if "mib" in row]
    if memory:
        text += ["", *aligned([MEMORY_HEADER, *map(memory_cells, memory)], WORDS)]
    text.append("")
    for cell, step in dict.fromkeys((one.shape.cell, one.row["step"]) for one in found):
        mine = [one for one in found if (one.shape.cell, one.row["step"]) == (cell, step)]
        known = [one.over_torch for one in mine if one.over_torch is not None]
        if known:
            text.append(
                f"{step}: {number(mean(known))} times as fast as {CELLS[cell].torch_layer} in the "
                f"geometric mean of {len(known)} cases, {number(min(known))} at worst"
            )
    text.append(f"slower than a baseline: {len(losing(rows))} of {len(found)} cases")
    for row in rows:
        name = f"{Shape(**row['work'])} {row['mode']} {row['step']}"
        text += [f"WRONG {who}, {name}: {why}" for who, why in row.get("wrong", {}).items()]
        text += [
            f"too slow to repeat: {who}, {name}: {seconds:.0f} s per call"
            for who, seconds in row.get("too_long_s", {}).items()
        ]
    return text
