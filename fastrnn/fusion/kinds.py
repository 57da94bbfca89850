"""What is asked of a row, told from its label.

binary, multiclass   one name; two different ones in all, or more
multilabel           any number of names: a|b|c, or a JSON list; [] where none holds
regression           a number
steps                a list, one name a step, null where nothing is asked
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from .config import KINDS
from .errors import ConfigError, FusionError
from .scale import LARGEST

Label = str | tuple[str | None, ...]

SEPARATOR = "|"
_SHOWN = 20  # labels that a summary names
_FEW = 20  # different numbers, up to which they are taken for names of classes


def check_kind(kind: str | None) -> None:
    """Refuse a kind that there is not.

    Raises:
        ConfigError: listing those there are.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"kind is one of {', '.join(KINDS)}; got {kind!r}")


def infer_kind(labels: Sequence[Label]) -> str:
    """The kind that labels look like.

    The first says whether they are lists. A name with a | in it makes all of them multilabel.
    Numbers are a regression where some are not whole and more than 20 are different.
    """
    if not labels:
        return "multiclass"
    if not isinstance(labels[0], str):
        return "steps"
    names = {label for label in labels if isinstance(label, str)}
    if any(SEPARATOR in name for name in names):
        return "multilabel"
    numbers = [number(name) for name in names]
    finite = [each for each in numbers if each is not None]
    if len(names) > _FEW and len(finite) == len(names) and any(each % 1 for each in finite):
        return "regression"
    return "binary" if len(names) <= 2 else "multiclass"


def settle(label: Label, kind: str) -> Label:
    """A label in its kind's form: a tuple of names for multilabel and steps, else a name.

    Raises:
        FusionError: it has no such form; the text says what to write.
    """
    if kind == "multilabel":
        parts = label.split(SEPARATOR) if isinstance(label, str) else label
        names = [canonical(part.strip()) for part in parts if part is not None and part.strip()]
        if isinstance(label, str) and not names:
            raise FusionError(f"{label!r} holds no label; write [] where none holds")
        return tuple(dict.fromkeys(names))
    if kind == "steps":
        if isinstance(label, str):
            raise FusionError("one label; write a list of labels, one a step")
        if all(each is None for each in label):
            raise FusionError("no step has a label; remove the row")
        return label
    if not isinstance(label, str):
        raise FusionError("a list of labels; write one label")
    if kind == "regression":
        value = number(label)
        if value is None:
            raise FusionError(f"{label!r} is no finite number; mend it, or choose another kind")
        if abs(value) > LARGEST:
            raise FusionError(f"{label} is beyond ±{LARGEST:g}; give the label in larger units")
    return label


def number(name: str) -> float | None:
    """The finite number that a label is, or None."""
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def canonical(name: str) -> str:
    """A label as it is compared: 1.0 is 1, as a column of numbers with an empty cell reads; True is
    true."""
    whole = re.fullmatch(r"([+-]?\d+)\.0*", name)
    if whole:
        return whole[1]
    return name.lower() if name in ("True", "False") else name


def regression_hint(kind: str, labels: Sequence[Label]) -> str:
    """What to add where labels look more like amounts than like names of classes; else ""."""
    names = {label for label in labels if isinstance(label, str)}
    if kind != "multiclass" or 2 * len(names) <= len(labels):
        return ""
    if any(number(name) is None for name in names):
        return ""
    return (
        f"{len(names)} of {len(labels)} labels are different numbers: if they are amounts, choose "
        "--kind regression"
    )


def summary(kind: str, labels: Iterable[Label]) -> str:
    """The labels that there are, and how often each."""
    names = Counter(name for label in labels for name in names_of(label))
    if kind == "regression":
        values = [float(name) for name in names]
        return f"{min(values):g} to {max(values):g}, {len(values)} different" if values else "none"
    shown = [f"{name} {names[name]}" for name in sort_names(names)[:_SHOWN]]
    more = f", … ({len(names)} different)" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more


def names_of(label: Label) -> tuple[str, ...]:
    """The names in a label."""
    return (label,) if isinstance(label, str) else tuple(each for each in label if each is not None)


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Different names, sorted: as numbers where all are numbers, else as words."""
    names = set(names)
    if all(number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))
