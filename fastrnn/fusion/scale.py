"""Means and deviations: any numbers, standardised for the network and brought back.

Both ways are float64. A value of 1.7e9 and one 50 larger are the same number in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from torch import Tensor

Scale = tuple[float, float]  # mean and deviation

LARGEST = 1e150  # sums of the squares of such numbers are finite in float64
FARTHEST = 1e15  # deviations from the mean; their squares are finite in float32
_SAME = 1e-12  # of the mean: a deviation of less is rounding


def scales(several: Iterable[np.ndarray]) -> tuple[Scale, ...]:
    """Mean and standard deviation of each column over all rows of arrays [L, K].

    A column whose values differ by rounding at most has the deviation 1. Of no arrays at all: ().
    """
    several = list(several)
    if not several:
        return ()
    rows = sum(len(each) for each in several)
    mean = sum(each.sum(axis=0, dtype=np.float64) for each in several) / rows
    # A second pass: the squares' sum less the sum's square loses digits.
    peak = np.max([np.abs(each - mean).max(axis=0) for each in several], axis=0)
    peak[peak == 0] = 1
    square = sum(np.square((each - mean) / peak).sum(axis=0) for each in several)
    deviation = peak * np.sqrt(square / rows)
    same = (deviation <= _SAME * np.abs(mean)) | (deviation == 0)
    mean, deviation = np.where(same, several[0][0], mean), np.where(same, 1, deviation)
    return tuple((float(a), float(b)) for a, b in zip(mean, deviation, strict=True))


def restore(values: Tensor, scale: Scale | None) -> Tensor:
    """Standardised values in their own units, float64."""
    mean, deviation = scale or (0.0, 1.0)
    return values.double() * deviation + mean


def written(value: float, scale: Scale | None) -> str:
    """A value with the digits that tell apart what a thousandth of the deviation does."""
    mean, deviation = scale or (0.0, 1.0)
    more = math.log10(max(abs(mean) / deviation, 1))
    return f"{value:.{4 + math.floor(more)}g}"
