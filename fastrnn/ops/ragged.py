"""The ragged structure of a batch: row lengths, packed offsets and resets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Ragged(NamedTuple):
    """The optional tensors of a recurrence, as `fastrnn.functional.recurrence` documents them.

    A tuple, so that ``*ragged`` passes the three arguments of the operators' schemas. It has
    methods instead of properties: torch.compile does not support properties of a NamedTuple before
    torch 2.11.
    """

    lengths: Tensor | None = None  #: [B]
    offsets: Tensor | None = None  #: [T], for packed data
    resets: Tensor | None = None  #: [T, B], or [N] with offsets

    def is_packed(self) -> bool:
        """Whether data is [N, ...], the rows of a PackedSequence, rather than [T, B, ...]."""
        return self.offsets is not None

    def steps(self, data: Tensor) -> int:
        """Return T, the number of steps."""
        return data.shape[0] if self.offsets is None else self.offsets.shape[0]

    def batch(self, data: Tensor) -> int:
        """Return B, the number of rows."""
        if self.offsets is None or self.lengths is None:
            return data.shape[1]
        return self.lengths.shape[0]


#: Every row is active at every step, and there are no resets.
DENSE = Ragged()
