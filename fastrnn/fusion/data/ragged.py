"""Arrays of different lengths in one flat array, without an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


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


def distinct(column: pa.Array | pa.ChunkedArray) -> tuple[Ragged, pa.Array]:
    """Number the distinct values of a column whose cells are values, or lists of them.

    Returns:
        The numbers of each row, none for an empty cell, and the distinct values.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_list(column.type):
        counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        column = pc.list_flatten(column)
    else:
        counts = pc.is_valid(column).to_numpy(zero_copy_only=False).astype(np.int64)
        column = column.drop_null()
    coded = column.dictionary_encode()
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Ragged(coded.indices.to_numpy().astype(np.int32), offsets), coded.dictionary
