"""Arrays of different lengths in one flat array, without an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged(Sequence[np.ndarray]):
    """A sequence of arrays [L_i, ...]: item i is values[offsets[i] : offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray  # int64 [N + 1]

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray], dtype: np.typing.DTypeLike) -> Ragged:
        """Copy arrays into one."""
        parts, lengths = [np.zeros(0, dtype)], [0]
        for each in arrays:
            parts.append(np.asarray(each, dtype))
            lengths.append(len(each))
        return cls(np.concatenate(parts), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """The length of each item, int64 [N]."""
        return np.diff(self.offsets)
