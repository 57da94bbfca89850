"""The table of the cells: nn.RNN's, nn.LSTM's and nn.GRU's, over the shapes that all three have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ..cells import CELLS
from ..groups import SELECTIONS
from . import markdown
from .records import Row
from .tables import PASSES, Line, lines, mean, short_number, times

WORDS = (
    "Geometric means over the cases of each cell, inference / training, in the groups "
    "{groups}. A shape that is in two groups counts once. *Over torch* is nn.RNN's, nn.LSTM's or "
    "nn.GRU's time over ours. *Slower* counts the cases in which a baseline is faster. The "
    "*strongest baseline* is the one that is the fastest in the most cases."
)


def strongest(mine: Sequence[Line]) -> str:
    """The baseline that is the fastest in the most cases, and in how many."""
    counts = Counter(one.baseline for one in mine if one.baseline is not None)
    if not counts:
        return "–"
    name, count = counts.most_common(1)[0]
    return f"{name} ({count} of {len(mine)})"


COLUMNS: dict[str, Callable[[list[Line]], str]] = {
    "cases": lambda mine: str(len(mine)),
    "over torch": lambda mine: times(mean(one.over_torch for one in mine)),
    "over the best baseline": lambda mine: times(mean(one.ratio for one in mine)),
    "worst": lambda mine: times(min((one.ratio for one in mine if one.ratio), default=None)),
    "slower": lambda mine: str(sum(one.is_losing for one in mine)),
    "× bound": lambda mine: short_number(mean(one.over_bound for one in mine)),
    "strongest baseline": strongest,
}


def by_cell(rows: Iterable[Row]) -> list[str]:
    """The means of each cell and mode, and the strongest baseline; nothing without a gated cell."""
    groups = SELECTIONS["cells"]
    found: dict[tuple[str, str], dict[str, dict[str, Line]]] = {}
    for one in lines(row for row in rows if row["group"] in groups):
        passes = found.setdefault((one.shape.cell, one.row["mode"]), {})
        passes.setdefault(one.row["step"], {}).setdefault(one.shape.id, one)
    if not any(cell != "rnn" for cell, _ in found):
        return []
    table = []
    for cell, mode in sorted(found, key=lambda key: list(CELLS).index(key[0])):
        pair = [list(found[cell, mode].get(which, {}).values()) for which in PASSES]
        row = (" / ".join(map(column, pair)) for column in COLUMNS.values())
        table.append((CELLS[cell].torch_layer, mode, *row))
    words = WORDS.format(groups=", ".join(groups))
    return [words, "", *markdown.table(("cell", "mode", *COLUMNS), table, 2)]
