"""Features of the distinct inputs of a manifest, which a frozen encoder computes once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .ragged import Ragged


@dataclass(frozen=True)
class Features:
    """Features of one input.

    Attributes:
        numbers: the numbers of the features that each row of the manifest has.
        values: float32 [U, D].
    """

    numbers: Ragged
    values: np.ndarray

    def load(self, number: int) -> np.ndarray:
        """Return the features of a number, float32 [D]."""
        return np.asarray(self.values[number])
