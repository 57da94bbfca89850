"""`FusedRNNBase`: the parameters that all fused layers share, and how they are read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .. import _checks


class FusedRNNBase(nn.RNNBase):
    """nn.RNNBase with heads, a learned initial state, and parameters that are read at every call.

    A subclass gives nn.RNNBase's mode and arguments, and computes in `forward`.
    """

    # Defaults for layers that another version pickled, or that were an nn.RNN before.
    num_heads: int = 1
    learned_h0: bool = False
    h0: nn.Parameter

    _lacks_parameters = False

    def __init__(
        self,
        mode: str,
        /,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: torch.device | str | int | None,
        dtype: torch.dtype | None,
        num_heads: int,
        learned_h0: bool,
        **unknown: Any,  # nn.RNNBase words the error
    ) -> None:
        self._lacks_parameters = True
        super().__init__(
            mode,
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            **unknown,
        )
        _checks.options(bias, batch_first, bidirectional, num_layers)
        _checks.heads(num_heads, hidden_size, learned_h0)
        self.num_heads, self.learned_h0 = num_heads, learned_h0
        if num_heads > 1:
            size = hidden_size // num_heads
            for name in self._flat_weights_names:
                if name.startswith("weight_hh"):
                    blocks = getattr(self, name).new_empty(num_heads, size, size)
                    setattr(self, name, nn.Parameter(blocks))
        if learned_h0:
            states = num_layers * (2 if bidirectional else 1)
            self.h0 = nn.Parameter(next(self.parameters()).new_empty(states, hidden_size))
        del self._lacks_parameters
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters; a learned initial state becomes 0."""
        if self._lacks_parameters:  # nn.RNNBase asks for it before we have made ours
            return
        for name, parameter in self.named_parameters():
            if "h0" in name.split("."):
                nn.init.zeros_(parameter)
                continue
            inputs = self.hidden_size // (self.num_heads if "weight_hh" in name else 1)
            nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def _weights(self) -> list[Any]:
        """The weights in nn.RNN's order.

        Read at every call: parametrizations, pruning, functional_call and sharding replace them.
        """
        parameters = self._parameters
        return [
            parameters[name] if name in parameters else getattr(self, name)
            for name in self._flat_weights_names
        ]

    def extra_repr(self) -> str:
        parts = super().extra_repr()
        if self.num_heads != 1:
            parts += f", num_heads={self.num_heads}"
        if self.learned_h0:
            parts += f", learned_h0={self.learned_h0}"
        return parts

    def flatten_parameters(self) -> None:
        """Put the parameters on a GPU into one piece of memory, where nn.RNN does, for cuDNN.

        Our own kernels read them wherever they are in memory, and a layer of several heads has no
        use for it.
        """
        if self.num_heads == 1:
            super().flatten_parameters()

    @property
    def _flat_weights(self) -> list[Any]:
        """The parameters in order. nn.RNNBase keeps a list, which a replaced parameter outdates."""
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, value: list[Any]) -> None:
        """Ignored: what nn.RNNBase would keep is always read anew."""
