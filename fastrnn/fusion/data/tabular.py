"""Numbers, dates and categories in the cells of a table.

A cell is text, as in a CSV file, or None if it is empty. A column of numbers gives one feature. A
date gives its time, and the sine and cosine of the time of year; with a time of day, also those of
the day of the week and of the time of day. Times are standardised like numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import numpy as np

from ..config.inputs import TabularName
from ..config.parser import Checked, OneOf
from ..config.schema import MAX_CATEGORIES, Deviation, Moment
from ..tasks import labels
from ..tasks.scale import FARTHEST, LARGEST, scales

KINDS = ("numbers", "dates", "categories")
_MOSTLY = 0.9  # share of the filled cells that must be numbers or dates
_EPOCH = datetime(1970, 1, 1)
_SECONDS = 86_400  # of a day

Cells = Sequence[str | None]


@dataclass(frozen=True)
class TabularColumn(Checked):
    """What a model learned of a column from the training rows.

    Attributes:
        name: the input, tabular:COLUMN.
        scale: mean and standard deviation of the numbers, or of the dates in days since 1970.
        clock: whether dates have a time of day.
        categories: the categories of the training rows; the index of the first is 1.
    """

    name: Annotated[str, TabularName()]
    kind: Annotated[str, OneOf(KINDS)]
    scale: tuple[Moment, Deviation] = (0.0, 1.0)
    clock: bool = False
    categories: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """The number of numeric features."""
        return {"numbers": 1, "dates": 7 if self.clock else 3, "categories": 0}[self.kind]


@dataclass(frozen=True)
class TabularArrays:
    """The cells of some rows as a model reads them; see batch.py."""

    numbers: np.ndarray  # float32 [R, N]; infinite if too far from the training mean
    known: np.ndarray  # bool [R, N]
    categories: np.ndarray  # int64 [R, C]

    def select(self, rows: np.ndarray) -> TabularArrays:
        """Return the arrays of some rows."""
        return TabularArrays(self.numbers[rows], self.known[rows], self.categories[rows])


def as_cell(value: Any) -> str | None:
    """Convert a value to a cell.

    Raises:
        TypeError: it is no number, text or date.
        ValueError: it is a number with more digits than Python converts.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):  # datetime and pandas.Timestamp, too
        return value.isoformat()
    if not isinstance(value, (str, int, float, Decimal)):
        raise TypeError(f"a {type(value).__name__}")
    try:
        text = str(value).strip()
    except ValueError:
        raise ValueError("a number with too many digits") from None
    return None if text.lower() in ("", "nan") else text


def number(cell: str | None) -> float | None:
    """Return a cell as a finite number, or None."""
    value = None if cell is None else labels.number(cell)
    return None if value is None or abs(value) > LARGEST else value


def moment(cell: str | None) -> datetime | None:
    """Return a cell with a date in ISO 8601, or None."""
    if cell is None or len(cell) < 8 or not cell[:4].isdigit():
        return None
    try:
        return datetime.fromisoformat(cell[:-1] + "+00:00" if cell.endswith("Z") else cell)
    except ValueError:
        return None


def kind_of(cells: Iterable[str | None]) -> str:
    """Return the kind of a column: a few cells among numbers or dates may be something else."""
    filled = [cell for cell in cells if cell is not None]
    for kind, parse in (("numbers", number), ("dates", moment)):
        if filled and sum(parse(cell) is not None for cell in filled) >= _MOSTLY * len(filled):
            return kind
    return "categories"


def fit_column(name: str, cells: Cells) -> TabularColumn:
    """Learn a column from the training rows: its kind, and its scale or categories."""
    kind = kind_of(cells)
    if kind == "categories":
        counts = Counter(labels.canonical(cell) for cell in cells if cell is not None)
        frequent = [each for each, _ in counts.most_common(MAX_CATEGORIES)]
        return TabularColumn(name, kind, categories=labels.sort_names(frequent))
    dates = [found for cell in cells if (found := moment(cell))] if kind == "dates" else []
    clock = any(each.hour or each.minute or each.second for each in dates)
    values = _values(TabularColumn(name, kind), cells)
    there = values[~np.isnan(values)]
    (scale,) = scales(lambda: [there[:, None]]) if len(there) else ((0.0, 1.0),)
    return TabularColumn(name, kind, scale, clock)


def encode(
    columns: Sequence[TabularColumn], cells: Mapping[str, Cells], rows: int
) -> TabularArrays:
    """Convert the cells of rows, by column. What is not known is 0."""
    numbers, categories = [np.zeros((rows, 0))], [np.zeros((rows, 0), np.int64)]
    for column in columns:
        own = cells[column.name]
        if column.kind == "categories":
            index = {each: at for at, each in enumerate(column.categories, 1)}
            found = [0 if cell is None else index.get(labels.canonical(cell), 0) for cell in own]
            categories.append(np.array(found, np.int64)[:, None])
            continue
        mean, deviation = column.scale
        value = (_values(column, own) - mean) / deviation
        value[np.abs(value) > FARTHEST] = np.inf
        numbers.append(value[:, None])
        if column.kind == "dates":
            numbers.append(_cycles(own, column.clock))
    values = np.concatenate(numbers, axis=1)
    known = ~np.isnan(values)
    return TabularArrays(
        np.where(known, values, 0).astype(np.float32), known, np.concatenate(categories, axis=1)
    )


def sources(columns: Sequence[TabularColumn]) -> list[str]:
    """Return the column of each numeric feature, then of each category."""
    found = [column.name for column in columns for _ in range(column.features)]
    return found + [column.name for column in columns if column.kind == "categories"]


def _values(column: TabularColumn, cells: Cells) -> np.ndarray:
    """Return numbers, or days since 1970, float64 [R]; NaN if unknown."""
    if column.kind == "numbers":
        found = [number(cell) for cell in cells]
    else:
        found = [_days(moment(cell)) for cell in cells]
    return np.array([math.nan if each is None else each for each in found], np.float64)


def _days(when: datetime | None) -> float | None:
    if when is None:
        return None
    # In UTC, the time may be before the year 1 or after 9999, which no datetime can be.
    since = when.replace(tzinfo=None) - _EPOCH - (when.utcoffset() or timedelta())
    return since.total_seconds() / _SECONDS


def _cycles(cells: Cells, clock: bool) -> np.ndarray:
    """Return the cyclic features of dates, float64 [R, 2] or [R, 6]; NaN if unknown."""
    found = np.full((len(cells), 3 if clock else 1), np.nan)
    for row, cell in enumerate(cells):
        when = moment(cell)
        if when is None:
            continue
        local = when.replace(tzinfo=None)  # as it is written
        year = datetime(local.year, 1, 1)
        length = 366 if local.year % 4 == 0 and (local.year % 100 or local.year % 400 == 0) else 365
        day = (local - local.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
        cycles = [
            (local - year).total_seconds() / (_SECONDS * length),
            local.weekday() / 7,
            day / _SECONDS,
        ]
        found[row] = cycles[: found.shape[1]]
    angle = 2 * np.pi * found
    return np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(cells), -1)
