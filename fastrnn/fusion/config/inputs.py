"""The names of a model's inputs.

An input is a column of a modality. The only column of a modality has its name: "image". Several
columns have names such as "image:front" and "image:back". All columns of numbers, categories and
dates are one input, "tabular"; "tabular:age" is one of its columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ..errors import ConfigError
from ..strings import composed, plural

MODALITIES = ("audio", "image", "series", "tabular", "text")
FILES = ("image", "audio", "series")  # modalities of files
# The keys of an input in a batch (batch.py) and in a sample are its name with these endings.
ENDINGS = (
    "",
    "_categories",
    "_features",
    "_frames",
    "_id",
    "_known",
    "_lengths",
    "_ngram_weights",
    "_ngrams",
    "_present",
)

Columns = Mapping[str, str | Sequence[str]]  # role or input -> one column, or several


class InputName:
    """A modality, or a modality with a column: image or image:front. The tabular input has none."""

    def allows(self, value: str) -> bool:
        found = re.fullmatch(rf"({'|'.join(MODALITIES)})(:[\w-]+)?", value)
        return found is not None and not value.startswith("tabular:")

    def __str__(self) -> str:
        return f"one of {', '.join(MODALITIES)}, or one with a column, as in image:front"


class TabularName:
    """The name of a tabular column, tabular:age."""

    def allows(self, value: str) -> bool:
        return re.fullmatch(r"tabular:[\w-]+", value) is not None

    def __str__(self) -> str:
        return "a column such as tabular:age"


def modality_of(name: str) -> str:
    """Return the modality of an input: "image" for "image" and for "image:front"."""
    return name.partition(":")[0]


def input_of(role: str) -> str:
    """Return the input that a column belongs to: "tabular" for "tabular:age"."""
    return "tabular" if modality_of(role) == "tabular" else role


def inputs_of(roles: Iterable[str]) -> tuple[str, ...]:
    """Return the inputs among inputs, tabular columns and other roles, sorted."""
    return tuple(sorted({input_of(role) for role in roles if modality_of(role) in MODALITIES}))


def of_modality(names: Iterable[str], modality: str) -> list[str]:
    """Return the inputs of a modality."""
    return [name for name in names if modality_of(name) == modality]


def input_names(modality: str, columns: Sequence[str]) -> dict[str, str]:
    """Name the columns of a modality: input -> column.

    Modules and keys of a batch have these names, so other characters than letters, digits, "_" and
    "-" become "_", and a number makes names unique.
    """
    if len(columns) == 1 and modality != "tabular":
        return {modality: columns[0]}
    found: dict[str, str] = {}
    keys: set[str] = set()
    for column in columns:
        base = f"{modality}:" + (re.sub(r"[^\w-]", "_", column) or "_")
        name, number = base, 1
        while keys & (own := {name + ending for ending in ENDINGS}):
            number += 1
            name = f"{base}_{number}"
        found[name] = column
        keys |= own
    return found


def listed(value: str | Sequence[str], known: Iterable[str] = ()) -> list[str]:
    """Return the columns in "front,back" or in a list. A column of `known` may contain a comma."""
    several = isinstance(value, Iterable) and not isinstance(value, str)
    values = list(value) if several else [value]  # a DataFrame may name a column 0
    known, parts = known if isinstance(known, set) else set(known), []
    for each in values:
        name = composed(str(each).strip())
        parts += [name] if name in known else [part.strip() for part in name.split(",")]
    return [part for part in parts if part] or [""]


def override(columns: Mapping[str, str], named: Columns, known: Iterable[str] = ()) -> Columns:
    """Return a run's columns, input or role -> column, with those that a user names instead.

    Args:
        named: a column by input or role, or all columns of a modality in the order of its inputs.
        known: the columns of the table.

    Raises:
        ConfigError: another number of columns of a modality than the run has.
    """
    result: dict[str, str | Sequence[str]] = dict(columns)
    for role, value in named.items():
        inputs = of_modality(columns, role)
        if role in columns or not inputs:
            result[role] = value
            continue
        given = listed(value, known)
        if len(given) != len(inputs):
            raise ConfigError(
                f"the model reads {plural(len(inputs), 'column')} of {role} "
                f"({', '.join(columns[name] for name in inputs)}); name as many, in this order"
            )
        result |= dict(zip(inputs, given, strict=True))
    return result
