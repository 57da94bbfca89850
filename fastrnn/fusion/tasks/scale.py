"""Standardise numbers for the network, and restore them.

Both directions use float64: in float32, 1.7e9 and 1.7e9 + 50 are the same number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from torch import Tensor

Scale = tuple[float, float]  # mean and standard deviation

LARGEST = 1e150  # sums of squares of smaller numbers are finite in float64
FARTHEST = 1e15  # in deviations from the mean; its square is finite in float32
_SAME = 1e-12  # relative to the mean: a smaller deviation is rounding error


def scales(several: Iterable[np.ndarray]) -> tuple[Scale, ...]:
    """Compute the mean and standard deviation of each column over all rows of arrays [L, K].

    A column with values that differ only by rounding errors gets deviation 1. Without arrays, the
    result is ().
    """
    several = list(several)
    if not several:
        return ()
    rows = sum(len(each) for each in several)
    mean = sum(each.sum(axis=0, dtype=np.float64) for each in several) / rows
    # Two passes: the difference of the mean square and the squared mean would lose digits.
    peak = np.max([np.abs(each - mean).max(axis=0) for each in several], axis=0)
    peak[peak == 0] = 1
    square = sum(np.square((each - mean) / peak).sum(axis=0) for each in several)
    deviation = peak * np.sqrt(square / rows)
    same = (deviation <= _SAME * np.abs(mean)) | (deviation == 0)
    mean, deviation = np.where(same, several[0][0], mean), np.where(same, 1, deviation)
    return tuple((float(a), float(b)) for a, b in zip(mean, deviation, strict=True))


def restore(values: Tensor, scale: Scale | None) -> Tensor:
    """Convert standardised values back to their own units, in float64."""
    mean, deviation = scale or (0.0, 1.0)
    return values.double() * deviation + mean


def written(value: float, scale: Scale | None) -> str:
    """Format a value with enough digits to resolve a thousandth of the deviation."""
    mean, deviation = scale or (0.0, 1.0)
    more = math.log10(max(abs(mean) / deviation, 1))
    return f"{value:.{4 + math.floor(more)}g}"
