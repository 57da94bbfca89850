"""Find out from the first rows of a table what a column without a role holds.

| a column of | is |
|---|---|
| numbers or dates; categories of which few are different | tabular |
| words, mostly different | text, if there is no other text |
| one value; a different value in every row; one value for each label | ignored |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from ..strings import plural
from ..tasks.labels import canonical
from .readers import Table
from .records import parsed
from .tabular import as_cell, kind_of, moment, number

ROWS = 10_000
_LONGEST = 200  # characters of a cell that are compared
_CATEGORIES = 100  # a column with more different values is not taken for categories
_NEARLY = 0.95  # share of the rows that is nearly all
_IDENTIFIER = re.compile(r"(^|[\W_])(id|ids|uuid|guid|index|idx|key|number|no|nr)$")
_INDEX = re.compile(r"|unnamed: \d+(\.\d+)?|__index_level_\d+__")  # as pandas saves it


@dataclass
class Profile:
    """The cells of a column in the first rows; None if they are empty."""

    cells: list[str | None] = field(default_factory=list)
    other: str = ""  # the type of a cell that is no number, text or date
    bracketed: bool = False  # whether a cell looks like a list: only the first is parsed

    @cached_property
    def filled(self) -> list[str]:
        """The cells that are not empty."""
        return [canonical(cell) for cell in self.cells if cell is not None]

    @cached_property
    def distinct(self) -> set[str]:
        """The different values."""
        return set(self.filled)

    @cached_property
    def kind(self) -> str:
        """numbers, dates or categories."""
        return kind_of(self.cells)

    @property
    def summary(self) -> str:
        """The kind of the cells, and how many are of this kind."""
        parse = {"numbers": number, "dates": moment, "categories": lambda cell: cell}[self.kind]
        known = sum(parse(cell) is not None for cell in self.cells)
        share = 100 * known // max(1, len(self.cells))
        return f"{self.kind} ({share}% of {plural(len(self.cells), 'cell')})"


def profiles(table: Table) -> dict[str, Profile]:
    """Read the first rows of a table."""
    found: dict[str, Profile] = {name: Profile() for name in table.names}
    for _, record in islice(table.records(), ROWS):
        if not isinstance(record, dict):
            continue
        for name, profile in found.items():
            try:
                cell = as_cell(record.get(name))
            except (TypeError, ValueError) as error:
                cell, profile.other = None, str(error).removeprefix("a ")
            if cell and not profile.bracketed and cell.startswith("[") and cell.endswith("]"):
                profile.bracketed = True
                profile.other = "list" if isinstance(parsed(cell), list) else profile.other
            profile.cells.append(None if cell is None else cell[:_LONGEST])
    return found


def judge(name: str, profile: Profile, label: Profile | None) -> tuple[str, str]:
    """Return the role of a column, tabular, text or "", and the reason."""
    if profile.other:
        return "", f"its cells are of the type {profile.other}"
    if not profile.filled:
        return "", "empty"
    suspicion = suspicious(name, profile, label)
    count, rows = len(profile.distinct), len(profile.filled)
    few = count <= min(_CATEGORIES, rows / 2)
    values = f"{plural(count, 'different value')} in {plural(rows, 'row')}"
    if profile.kind == "categories" and not few and _words(profile):
        return "text", f"text, {values}"
    if suspicion or (profile.kind == "categories" and not few):
        return "", f"{suspicion or values}; name it with --tabular to use it"
    return "tabular", profile.summary


def suspicious(name: str, profile: Profile, label: Profile | None) -> str:
    """Return why a column should not be an input, or "" if there is no reason."""
    if len(profile.distinct) == 1 and len(profile.filled) == len(profile.cells):
        return "constant"
    if _INDEX.fullmatch(name.lower()):
        return "the index of a DataFrame"
    if _identifies(name, profile):
        return "a different value in every row"
    return "" if label is None else _leak(profile, label)


def names_hold_label(profile: Profile, label: Profile | None) -> bool:
    """Whether nearly all names of files contain the label, in a folder or in the file's name."""
    if label is None or len(label.distinct) < 2:
        return False
    pairs = _pairs(profile, label)
    hold = sum(each.lower() in re.split(r"[\W_]+", name.lower()) for name, each in pairs)
    return bool(pairs) and hold >= _NEARLY * len(pairs)


def _words(profile: Profile) -> bool:
    """Whether most cells are several words."""
    return 2 * sum(" " in cell for cell in profile.filled) > len(profile.filled)


def _identifies(name: str, profile: Profile) -> bool:
    """Whether every value is different, and is not an amount."""
    count = len(profile.filled)
    if count < 2 or len(profile.distinct) < count or profile.kind == "dates":
        return False
    if profile.kind == "categories":
        return not _words(profile)
    values = sorted(value for cell in profile.filled if (value := number(cell)) is not None)
    if len(values) < count or any(value % 1 for value in values):
        return False
    return values[-1] - values[0] == count - 1 or bool(_IDENTIFIER.search(name.lower()))


def _leak(profile: Profile, label: Profile) -> str:
    """Return how a column gives the label away, or ""."""
    pairs = _pairs(profile, label)
    values, labels = ({pair[side] for pair in pairs} for side in (0, 1))
    if len(values) < 2 or len(labels) < 2:
        return ""
    if all(value == each or _same(value, each) for value, each in pairs):
        return "equal to the label in every row"
    if len(set(pairs)) == len(values) == len(labels) and len(pairs) >= 2 * len(values):
        return "one value for each label"
    return ""


def _same(value: str, label: str) -> bool:
    found = number(value)
    return found is not None and found == number(label)


def _pairs(profile: Profile, label: Profile) -> list[tuple[str, str]]:
    """Return the value and the label of the rows that have both."""
    both = zip(profile.cells, label.cells, strict=True)
    return [(canonical(a), canonical(b)) for a, b in both if a is not None and b is not None]


def label_of(found: Mapping[str, Profile], column: str | None) -> Profile | None:
    """Return the profile of the labels; None without labels, or if they are lists."""
    label = None if column is None else found.get(column)
    return None if label is None or label.other else label
