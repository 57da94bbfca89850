"""Labels of a table: names and numbers, and the problem type inferred from them.

binary, multiclass   one name per row; two different names in all, or more
multilabel           any number of names per row: a|b|c, or a JSON list; [] for none
regression           a number
steps                a list with one name per step, null for a step without a label
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

Label = str | tuple[str | None, ...]

SEPARATOR = "|"
_SHOWN = 20  # labels listed in a summary
_FEW = 20  # up to this many different numbers are taken for class names


def infer_problem_type(labels: Sequence[Label]) -> str:
    """Infer the problem type from the labels.

    The first label decides whether labels are lists. A name with a | makes all labels multilabel.
    Numbers are a regression if some are not whole and more than 20 are different.
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


def number(name: str) -> float | None:
    """Return a label as a finite number, or None if it is not one."""
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def canonical(name: str) -> str:
    """Normalise a label for comparison: 1.0 becomes 1, and True becomes true.

    pandas reads a column of whole numbers with an empty cell as floats.
    """
    whole = re.fullmatch(r"([+-]?\d+)\.0*", name)
    if whole:
        return whole[1]
    return name.lower() if name in ("True", "False") else name


def regression_hint(problem_type: str, labels: Sequence[Label]) -> str:
    """Return a hint if labels look like amounts rather than class names, else ""."""
    names = {label for label in labels if isinstance(label, str)}
    if problem_type != "multiclass" or 2 * len(names) <= len(labels):
        return ""
    if any(number(name) is None for name in names):
        return ""
    return (
        f"{len(names)} of {len(labels)} labels are different numbers; if they are amounts, use "
        "--problem-type regression"
    )


def counted(labels: Iterable[Label]) -> str:
    """Return the labels and their counts as text: no 3, yes 4."""
    names = Counter(name for label in labels for name in names_of(label))
    shown = [f"{name} {names[name]}" for name in sort_names(names)[:_SHOWN]]
    more = f", … ({len(names)} different)" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more


def names_of(label: Label) -> tuple[str, ...]:
    """Return the names in a label."""
    return (label,) if isinstance(label, str) else tuple(each for each in label if each is not None)


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names, sorted as numbers if all are numbers, else as strings."""
    names = set(names)
    if all(number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))
