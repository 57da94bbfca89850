"""What is ragged in a batch: the lengths of rows, where they are, where sequences begin."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Ragged(NamedTuple):
    """The optional tensors of a recurrence, as `fastrnn.functional.recurrence` documents them.

    A tuple, so that ``*ragged`` are the three arguments that the operators' schemas have; without
    properties, which torch.compile does not know of a tuple before torch 2.11.
    """

    lengths: Tensor | None = None  #: [B]
    offsets: Tensor | None = None  #: [T], for packed data
    resets: Tensor | None = None  #: [T, B], or [N] with offsets

    def is_packed(self) -> bool:
        """Whether data is [N, ...], the rows of a PackedSequence, and not [T, B, ...]."""
        return self.offsets is not None

    def steps(self, data: Tensor) -> int:
        """T."""
        return data.shape[0] if self.offsets is None else self.offsets.shape[0]

    def batch(self, data: Tensor) -> int:
        """B."""
        if self.offsets is None or self.lengths is None:
            return data.shape[1]
        return self.lengths.shape[0]


#: Every row has every step, and no sequence begins after the first.
DENSE = Ragged()
