"""Find rows that must stay in one split: rows of one group, or rows that share a file.

If a photo, or the clips of one speaker, were in both train and test, a model could answer the test
from memory.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections import defaultdict
from collections.abc import Hashable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..config.inputs import FILES, of_modality
from ..strings import composed
from .columns import Rows, file_column
from .rows import Row


def linked(table: Rows, rows: Iterable[int]) -> list[list[int]]:
    """Partition rows into sets that share no group and no file (connected components).

    Sets, and the row numbers in each set, keep the order of the rows.
    """
    rows = list(rows)
    leader = list(range(len(table)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    chosen = np.zeros(len(table), bool)
    chosen[rows] = True
    for name in (*FILES, "group"):
        code, row = references(table, name)
        code, row = code[chosen[row]], row[chosen[row]]
        if len(code) == len(np.unique(code)):
            continue  # each file is named once
        _, first = np.unique(code, return_index=True)
        for a, b in zip(row[first][_positions(code)].tolist(), row.tolist(), strict=True):
            a, b = find(a), find(b)
            leader[max(a, b)] = min(a, b)
    sets: dict[int, list[int]] = defaultdict(list)
    for each in rows:
        sets[find(each)].append(each)
    return list(sets.values())


def references(table: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a code of each value, equal for equal values, and its row: int64 [R].

    Args:
        name: "group", or a modality of files, whose columns count as one.
    """
    columns = ["group"] if name == "group" else [file_column(each) for each in table.of(name)]
    found = [_values(table.column(each)) for each in columns if len(table)]
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    values = pa.chunked_array([each for each, _ in found], pa.string()).combine_chunks()
    code = values.dictionary_encode().indices.to_numpy().astype(np.int64)
    return code, np.concatenate([row for _, row in found])


def _values(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the values of a column of strings or of lists of strings, and their rows."""
    if pa.types.is_list(column.type):
        row = pc.list_parent_indices(column).to_numpy()
        return pc.list_flatten(column), row.astype(np.int64)
    row = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    return column.drop_null(), row.astype(np.int64)


def _positions(code: np.ndarray) -> np.ndarray:
    """Return the position of each code among the sorted distinct ones."""
    return np.unique(code, return_inverse=True)[1]


def _crossing(table: Rows, name: str) -> tuple[int, Row, Row] | None:
    """Return how many values of `references` are in two splits, and the first two such rows."""
    if not _has_splits(table):
        return None
    code, row = references(table, name)
    split = table.column("split").dictionary_encode().indices.to_numpy()[row]
    _, first = np.unique(code, return_index=True)
    position = _positions(code)
    differ = np.flatnonzero(split != split[first][position])
    if not len(differ):
        return None
    at = differ[0]
    one, other = row[first[position[at]]], row[at]
    count = len(np.unique(code[differ]))
    return count, table[int(one)], table[int(other)]


def crossing_files(table: Rows) -> tuple[str, ...]:
    """Return a one-line warning if a file is in several splits of the split column, else ().

    This is not an error: the user chose the splits, and a shared image may give nothing away.
    """
    found = [(name, each) for name in FILES if (each := _crossing(table, name))]
    if not found:
        return ()
    name, (_, one, other) = found[0]
    shared = _files(one, name) & _files(other, name)
    more = _more(sum(count for _, (count, _, _) in found) - 1, "file")
    return (
        f"{min(shared)} is in {one.split} ({one.where}) and in {other.split} "
        f"({other.where}){more}: scores may be too high; omit the split column to split the rows "
        "so that each file is in one split",
    )


def _files(row: Row, modality: str) -> set[str]:
    found: set[str] = set()
    for name in of_modality(row.inputs, modality):
        value = row.inputs[name]
        found |= {value} if isinstance(value, str) else set(map(str, value))
    return found


def crossing_contents(table: Rows, splits: dict[int, str] | None = None) -> tuple[str, ...]:
    """Return a one-line warning if rows without files repeat a text and series across splits.

    A text shared by different images gives nothing away: questions are repeated.

    Args:
        splits: the split of each row; by default the split column decides.
    """
    if (splits is None and not _has_splits(table)) or not (table.of("text") or table.of("series")):
        return ()
    filed = np.zeros(len(table), bool)
    for name in FILES:
        filed[references(table, name)[1]] = True
    told = [*table.of("text"), *table.of("series")]
    empty = np.logical_and.reduce([table.lacking(name) for name in told])
    seen: dict[Hashable, tuple[int, str]] = {}
    crossing: dict[Hashable, tuple[int, str, int, str]] = {}
    for number in np.flatnonzero(~filed).tolist() if splits is None else splits:
        if filed[number] or empty[number]:
            continue
        split = table.column("split")[number].as_py() if splits is None else splits[number]
        content = _content(table, number)
        first, part = seen.setdefault(content, (number, split))
        if part != split and content not in crossing:
            crossing[content] = (first, part, number, split)
    if not crossing:
        return ()
    first, part, number, split = next(iter(crossing.values()))
    one, other = table[first], table[number]
    texts = [str(one.inputs[name]) for name in of_modality(one.inputs, "text")]
    series = bool(of_modality(one.inputs, "series"))
    what = " and ".join(["text"] * bool(texts) + ["series"] * series)
    shown = f" {reprlib.repr(texts[0])}" if texts and not series else ""
    more = _more(len(crossing) - 1, "row" if series else "text")
    return (
        f"the {what}{shown} {'are' if texts and series else 'is'} in {part} ({one.where}) and "
        f"in {split} ({other.where}){more}: scores may be too high; remove such rows, or put "
        "equal rows into one group",
    )


def _content(table: Rows, number: int) -> Hashable:
    content: list[Hashable] = []
    for name in table.of("text"):
        text = table.column(name)[number].as_py()
        content.append(None if text is None else composed(text))
    for name in table.of("series"):
        values = table.values(name, number)
        if values is not None:
            content.append((name, values.shape, hashlib.sha256(values.tobytes()).digest()))
    content += [table.column(name)[number].as_py() for name in table.of("tabular")]
    return tuple(content)


def _has_splits(table: Rows) -> bool:
    column = table.column("split")
    return len(column) > column.null_count


def _more(number: int, noun: str) -> str:
    return f" ({number} more {noun}{'s' if number > 1 else ''} like it)" if number else ""


def crossing_group(table: Rows) -> tuple[Row, Row] | None:
    """Return two rows of one group that the split column puts into different splits, or None."""
    found = _crossing(table, "group")
    return None if found is None else found[1:]
