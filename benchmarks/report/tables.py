"""The tables of a record: our times against the best baseline and the roofline bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean

from ..roofline.model import flops
from ..shapes import Shape
from .markdown import aligned
from .records import Row, case, is_fastrnn


@dataclass(frozen=True)
class Line:
    """One case of a table."""

    row: Row
    ours: str  #: our provider that users get, where it was measured, or else our fastest
    baseline: str | None  #: the fastest baseline, if there is one

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
        """The median over the turns of the baseline's time over ours."""
        return self.over(self.baseline)

    def over(self, baseline: str | None) -> float | None:
        """The same for any baseline; None where it was not measured."""
        times = self.row["times"].get(baseline)
        return None if times is None else times["over"][self.ours]

    @property
    def over_bound(self) -> float | None:
        """Our best time over the roofline bound."""
        return self.ms / max(self.row["floor"].values()) if "floor" in self.row else None

    @property
    def is_losing(self) -> bool:
        return self.ratio is not None and self.ratio < 1


def line(row: Row) -> Line | None:
    """The line of a row; None if we have no time, or none of the provider that `auto` takes."""
    medians = {name: times["ms"][2] for name, times in row.get("times", {}).items()}
    used = row.get("auto") or _used(medians)
    return (
        Line(row, used, _best_baseline(medians)) if used in medians and is_fastrnn(used) else None
    )


def _used(values: Mapping[str, float]) -> str | None:
    """Our provider that users get: `auto` where it was measured, else our best."""
    ours = [name for name in values if is_fastrnn(name)]
    return "fastrnn" if "fastrnn" in ours else min(ours, key=values.__getitem__, default=None)


def _best_baseline(values: Mapping[str, float]) -> str | None:
    """The best baseline."""
    others = [name for name in values if not is_fastrnn(name)]
    return min(others, key=values.__getitem__, default=None)


def lines(rows: Iterable[Row]) -> list[Line]:
    return [made for made in map(line, rows) if made is not None]


def number(value: float | None) -> str:
    """A number with three significant digits."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of the values that are known."""
    known = [value for value in values if value is not None]
    return geometric_mean(known) if known else None


def times(ratio: float | None) -> str:
    """A ratio as text, bold where we are slower."""
    if ratio is None:
        return "–"
    shown = f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.1f}×"
    return f"**{shown}**" if ratio < 0.995 else shown


def short_number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


HEADER = (
    *("(T, B, I, H)", "mode", "step", "best peer"),
    *("ours, ms", "GFLOP/s", "x floor", "peer, ms", "ratio"),
)
MEMORY_HEADER = (
    *("(T, B, I, H)", "mode", "step", "least peer"),
    *("ours, MiB", "results", "peer, MiB"),
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
    """A row of the table of peaks: ours, that of the results alone, and the lowest baseline's."""
    mib: dict[str, float] = row["mib"]
    used, baseline = _used(mib), _best_baseline(mib)
    return (
        *(str(Shape(**row["work"])), row["mode"], row["step"], baseline or "–"),
        number(mib[used] if used else None),
        number(row["least_mib"]),
        number(mib[baseline] if baseline else None),
    )


def summary(rows: Iterable[Row]) -> list[str]:
    """The tables of a record for the terminal."""
    rows = list(rows)
    found = lines(rows)
    text = aligned([HEADER, *map(cells, found)], WORDS) if found else []
    memory = [row for row in rows if "mib" in row]
    if memory:
        text += ["", *aligned([MEMORY_HEADER, *map(memory_cells, memory)], WORDS)]
    text.append("")
    for step in dict.fromkeys(one.row["step"] for one in found):
        over = [one.over("nn.RNN") for one in found if one.row["step"] == step]
        known = [ratio for ratio in over if ratio is not None]
        if known:
            text.append(
                f"{step}: {number(mean(known))} times as fast as nn.RNN in the geometric mean of "
                f"{len(known)} cases, {number(min(known))} at worst"
            )
    losing = [one for one in found if one.is_losing]
    text += [f"slower than a peer: {len(losing)} of {len(found)} cases"]
    for row in rows:
        name = f"{Shape(**row['work'])} {row['mode']} {row['step']}"
        text += [f"WRONG {who}, {name}: {why}" for who, why in row.get("wrong", {}).items()]
        text += [
            f"too long to repeat: {who}, {name}: {seconds:.0f} s a call"
            for who, seconds in row.get("too_long_s", {}).items()
        ]
    return text
