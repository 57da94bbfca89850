"""The non-tensor options of a stack of layers."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """The constructor arguments of nn.RNNBase that a call depends on."""

    mode: str
    bias: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool

    def directions(self) -> int:
        """Return D, the number of directions."""
        return 2 if self.bidirectional else 1
