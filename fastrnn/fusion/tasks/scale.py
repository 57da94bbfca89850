"""Standardise numbers for the network, and restore them.

Both directions use float64: in float32, 1.7e9 and 1.7e9 + 50 are the same number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

Scale = tuple[float, float]  # mean and standard deviation

LARGEST = 1e150  # sums of squares of smaller numbers are finite in float64
FARTHEST = 1e15  # in deviations from the mean; its square is finite in float32
_SAME = 1e-12  # relative to the mean: a smaller deviation is rounding error


def scales(arrays: Callable[[], Iterable[np.ndarray]]) -> tuple[Scale, ...]:
    """Compute the mean and standard deviation of each column over all rows of arrays [L, K].

    A column with values that differ only by rounding errors gets deviation 1. Without arrays, the
    result is ().

    Args:
        arrays: returns the arrays. It is called twice: the difference of the mean square and the
            squared mean would lose digits. Only one array is in memory at a time.
    """
    rows, total, first = 0, None, None
    low, high = np.inf, -np.inf
    for each in arrays():
        rows += len(each)
        sums = each.sum(axis=0, dtype=np.float64)
        total = sums if total is None else total + sums
        first = each[0].copy() if first is None else first
        low, high = np.minimum(low, each.min(axis=0)), np.maximum(high, each.max(axis=0))
    if total is None:
        return ()
    mean = total / rows
    peak = np.maximum(np.abs(high - mean), np.abs(low - mean))
    peak[peak == 0] = 1
    square = sum(np.square((each - mean) / peak).sum(axis=0) for each in arrays())
    deviation = peak * np.sqrt(square / rows)
    same = (deviation <= _SAME * np.abs(mean)) | (deviation == 0)
    mean, deviation = np.where(same, first, mean), np.where(same, 1, deviation)
    return tuple((float(a), float(b)) for a, b in zip(mean, deviation, strict=True))


def restore(values: Tensor, scale: Scale | None) -> Tensor:
    """Convert standardised values back to their own units, in float64."""
    mean, deviation = scale or (0.0, 1.0)
    return values.double() * deviation + mean


def formatted(value: float, scale: Scale | None) -> str:
    """Format a value with enough digits to resolve a thousandth of the deviation."""
    mean, deviation = scale or (0.0, 1.0)
    more = math.log10(max(abs(mean) / deviation, 1))
    return f"{value:.{4 + math.floor(more)}g}"
