"""Records read as a person wants to: ours beside the best of the others, and beside the floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, log

from .records import Row, case, ours
from .roofline.model import flops
from .shapes import Work
from .text import aligned


@dataclass(frozen=True)
class Line:
    """One case, as a table shows it."""

    row: Row
    mine: str  #: which of ours; the one that users get, where it was measured
    peer: str | None  #: the fastest of the others, if there are any

    @property
    def work(self) -> Work:
        return Work(**self.row["work"])

    @property
    def ms(self) -> float:
        """Our best time."""
        return self.row["times"][self.mine]["ms"][0]

    @property
    def peer_ms(self) -> float | None:
        return None if self.peer is None else self.row["times"][self.peer]["ms"][0]

    @property
    def ratio(self) -> float | None:
        """The median, over the turns, of the peer's time over ours."""
        return self.over(self.peer)

    def over(self, peer: str | None) -> float | None:
        """The same of one peer; None where it was not measured."""
        times = self.row["times"].get(peer)
        return None if times is None else times["over"][self.mine]

    @property
    def over_bound(self) -> float | None:
        """Our best time over the least there can be."""
        return self.ms / max(self.row["floor"].values()) if "floor" in self.row else None

    @property
    def is_losing(self) -> bool:
        return self.ratio is not None and self.ratio < 1


def line(row: Row) -> Line | None:
    """None where none of ours has a time, or not the one that is said to be `auto`'s."""
    medians = {name: times["ms"][2] for name, times in row.get("times", {}).items()}
    used = row.get("auto") or _used(medians)
    return Line(row, used, _best(medians)) if used in medians and ours(used) else None


def _used(values: Mapping[str, float]) -> str | None:
    """Which of ours a user gets: auto's choice where it was measured, else the best."""
    mine = [name for name in values if ours(name)]
    return "fastrnn" if "fastrnn" in mine else min(mine, key=values.__getitem__, default=None)


def _best(values: Mapping[str, float]) -> str | None:
    """The best of the others."""
    others = [name for name in values if not ours(name)]
    return min(others, key=values.__getitem__, default=None)


def lines(rows: Iterable[Row]) -> list[Line]:
    return [made for made in map(line, rows) if made is not None]


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of those that are known."""
    known = [log(value) for value in values if value is not None]
    return exp(sum(known) / len(known)) if known else None


def times(ratio: float | None) -> str:
    """A ratio to show; bold where we lose."""
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

#: Of both, how many columns are words.
WORDS = 4


def cells(one: Line) -> tuple[str, ...]:
    """A row of the table of times."""
    return (
        *(str(one.work), one.row["mode"], one.row["step"], one.peer or "–"),
        number(one.ms),
        number(flops(case(one.row)) / one.ms * 1e-6),
        "–" if one.over_bound is None else f"{one.over_bound:.1f}",
        number(one.peer_ms),
        "–" if one.ratio is None else f"{one.ratio:.2f}",
    )


def memory_cells(row: Row) -> tuple[str, ...]:
    """A row of the table of peaks: ours, what the results alone take, and the least peer's."""
    mib: dict[str, float] = row["mib"]
    used, peer = _used(mib), _best(mib)
    return (
        *(str(Work(**row["work"])), row["mode"], row["step"], peer or "–"),
        number(mib[used] if used else None),
        number(row["least_mib"]),
        number(mib[peer] if peer else None),
    )


def summary(rows: Iterable[Row]) -> list[str]:
    """What a terminal shows of a record."""
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
        name = f"{Work(**row['work'])} {row['mode']} {row['step']}"
        text += [f"WRONG {who}, {name}: {why}" for who, why in row.get("wrong", {}).items()]
        text += [
            f"too long to repeat: {who}, {name}: {seconds:.0f} s a call"
            for who, seconds in row.get("too_long_s", {}).items()
        ]
    return text
