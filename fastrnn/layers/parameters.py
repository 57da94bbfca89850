"""`FusedRNNParameters`: the parameters of all fused layers, and their access."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import nn

from .. import _checks


class FusedRNNParameters(nn.RNNBase):
    """nn.RNNBase with heads, a learned initial state, and parameters that are read at every call.

    A subclass passes nn.RNNBase's mode and arguments.
    """

    #: The names of the learned initial states.
    _learned: ClassVar[tuple[str, ...]] = ("h0",)

    # Defaults for layers that another version pickled, or that `convert` made from an nn.RNN.
    num_heads: int = 1
    learned_h0: bool = False
    h0: nn.Parameter
    c0: nn.Parameter

    _lacks_parameters = False

    def __init__(
        self, mode: str, /, *args: Any, num_heads: int, learned_h0: bool, **kwargs: Any
    ) -> None:
        self._lacks_parameters = True
        super().__init__(mode, *args, **kwargs)
        _checks.options(self.bias, self.batch_first, self.bidirectional, self.num_layers)
        _checks.heads(num_heads, self.hidden_size, learned_h0)
        self.num_heads, self.learned_h0 = num_heads, learned_h0
        if num_heads > 1:
            size = self.hidden_size // num_heads
            for name in self._flat_weights_names:
                if name.startswith("weight_hh"):
                    weight = getattr(self, name)
                    blocks = weight.new_empty(num_heads, weight.shape[0] // num_heads, size)
                    setattr(self, name, nn.Parameter(blocks))
        if learned_h0:
            states = self.num_layers * (2 if self.bidirectional else 1)
            like = next(self.parameters())
            for name in self._learned:
                setattr(self, name, nn.Parameter(like.new_empty(states, self.hidden_size)))
        del self._lacks_parameters
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters, and set a learned initial state to 0."""
        if self._lacks_parameters:  # nn.RNNBase calls this before our parameters exist
            return
        for name, parameter in self.named_parameters():
            if not set(self._learned).isdisjoint(name.split(".")):
                nn.init.zeros_(parameter)
                continue
            inputs = self.hidden_size // (self.num_heads if "weight_hh" in name else 1)
            nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def extra_repr(self) -> str:
        parts = super().extra_repr()
        if self.num_heads != 1:
            parts += f", num_heads={self.num_heads}"
        if self.learned_h0:
            parts += f", learned_h0={self.learned_h0}"
        return parts

    def flatten_parameters(self) -> None:
        """Store the parameters in one contiguous chunk of GPU memory for cuDNN, as torch does.

        Our own kernels do not need this. A layer with several heads ignores the call, because cuDNN
        cannot run it.
        """
        if self.num_heads == 1:
            super().flatten_parameters()

    def _weights(self) -> list[Any]:
        """Return the weights in nn.RNNBase's order.

        They are read at every call: parametrizations, pruning, functional_call and sharding replace
        them.
        """
        parameters = self._parameters
        return [
            parameters[name] if name in parameters else getattr(self, name)
            for name in self._flat_weights_names
        ]

    @property
    def _flat_weights(self) -> list[Any]:
        """The parameters in order. nn.RNNBase keeps a list, which goes stale on replacement."""
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, value: list[Any]) -> None:
        """Ignore the list that nn.RNNBase keeps: the getter always reads the parameters."""
