"""What a stack of layers is besides its tensors."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """nn.RNN's arguments, as far as a call depends on them."""

    activation: str
    bias: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool

    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1
