"""Features of the distinct inputs of a manifest, which a frozen encoder computes once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .manifest import Manifest
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


def distinct_texts(manifest: Manifest, name: str) -> tuple[Ragged, int]:
    """Number the distinct texts of a column; return the number of each row, and how many."""
    column = manifest.rows.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    counts = pc.is_valid(column).to_numpy(zero_copy_only=False).astype(np.int64)
    coded = column.drop_null().dictionary_encode()
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Ragged(coded.indices.to_numpy().astype(np.int32), offsets), len(coded.dictionary)
