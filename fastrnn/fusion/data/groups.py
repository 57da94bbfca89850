"""Find rows that must stay in one split: rows of one group, or rows that share a file.

If a photo, or the clips of one speaker, were in both train and test, a model could answer the test
from memory.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..strings import composed
from .rows import Row


def linked(rows: Sequence[Row], indices: Iterable[int]) -> list[list[int]]:
    """Partition rows into sets that share no group and no file (connected components).

    Sets, and the row numbers in each set, keep the order of the rows.
    """
    indices = list(indices)
    leader = {index: index for index in indices}

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    first: dict[Hashable, int] = {}
    for index in indices:
        for key in _keys(rows[index]):
            a, b = find(first.setdefault(key, index)), find(index)
            leader[max(a, b)] = min(a, b)
    sets: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        sets[find(index)].append(index)
    return list(sets.values())


def _keys(row: Row) -> list[Hashable]:
    keys: list[Hashable] = [file for _, file in row.files]
    return keys if row.group is None else [*keys, row.group]


def crossing_files(rows: Iterable[Row], root: Path) -> tuple[str, ...]:
    """Return a one-line warning if a file is in several splits of the split column, else ().

    This is not an error: the user chose the splits, and a shared image may give nothing away.
    """
    seen: dict[Path, Row] = {}
    crossing: dict[Path, tuple[Row, Row]] = {}
    for row in rows:
        for _, file in row.files if row.split else ():
            first = seen.setdefault(file, row)
            if first.split != row.split and file not in crossing:
                crossing[file] = (first, row)
    if not crossing:
        return ()
    file, (one, other) = next(iter(crossing.items()))
    more = _more(len(crossing) - 1, "file")
    return (
        f"{file.relative_to(root)} is in {one.split} ({one.where}) and in {other.split} "
        f"({other.where}){more}: scores may be too high; omit the split column to split the rows "
        "so that each file is in one split",
    )


def crossing_contents(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return a one-line warning if rows without files repeat a text and series across splits.

    A text shared by different images gives nothing away: questions are repeated.
    """
    seen: dict[Hashable, Row] = {}
    crossing: dict[Hashable, tuple[Row, Row]] = {}
    for row in rows:
        if row.split and not row.files:
            content = _content(row)
            first = seen.setdefault(content, row)
            if first.split != row.split and content not in crossing:
                crossing[content] = (first, row)
    if not crossing:
        return ()
    one, other = next(iter(crossing.values()))
    text, series = one.text is not None, one.series is not None
    what = " and ".join(["text"] * text + ["series"] * series)
    shown = f" {reprlib.repr(one.text)}" if text and not series else ""
    more = _more(len(crossing) - 1, "row" if series else "text")
    return (
        f"the {what}{shown} {'are' if text and series else 'is'} in {one.split} ({one.where}) and "
        f"in {other.split} ({other.where}){more}: scores may be too high; remove such rows, or put "
        "equal rows into one group",
    )


def _content(row: Row) -> Hashable:
    text = None if row.text is None else composed(row.text)
    if not isinstance(row.series, np.ndarray):
        return text
    return text, row.series.shape, hashlib.sha256(row.series.tobytes()).digest()


def _more(number: int, noun: str) -> str:
    return f" ({number} more {noun}{'s' if number > 1 else ''} like it)" if number else ""


def crossing_group(rows: Iterable[Row]) -> tuple[Row, Row] | None:
    """Return two rows of one group that the split column puts into different splits, or None."""
    seen: dict[str, Row] = {}
    for row in rows:
        if row.group is not None:
            first = seen.setdefault(row.group, row)
            if first.split != row.split:
                return first, row
    return None
