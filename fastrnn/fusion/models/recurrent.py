"""Recurrent layers by name, all with one call signature, and their readout.

`layer(x, state, lengths=lengths)` takes x [B, T, I], the initial state or None for zeros, and
lengths int [B] or None. It returns h after each step, [B, T, H], which is 0 beyond a row's length,
and the final state. A state is h [1, B, H], or for FusedLSTM the pair (h, c) of such tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastrnn import FusedGRU, FusedLSTM, FusedRNN, ReadoutRNN

Layer = TypeVar("Layer", bound=nn.Module)
State = Tensor | tuple[Tensor, Tensor]


def initial(cell: str, h0: Tensor) -> State:
    """Return the initial state of a cell for h0 [1, B, H]. An LSTM also gets c0, which is zero."""
    return (h0, torch.zeros_like(h0)) if cell == "lstm" else h0


def h_of(state: State) -> Tensor:
    """Return a state's h [1, B, H], which the readout reads."""
    return state[0] if isinstance(state, tuple) else state


def mapped(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to h, and in an LSTM's state also to c."""
    if isinstance(state, tuple):
        return function(state[0]), function(state[1])
    return function(state)


class Memoryless(nn.Module):
    """A recurrent layer without W_hh: h_t = tanh(W_xh x_t + b + h0). The final state is their mean.

    No state is carried from step to step, so h0 is added at every step.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)

    def forward(
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the module's docstring."""
        pre = self.hidden(input)
        if hx is not None:
            pre = pre + hx.transpose(0, 1)
        h = pre.tanh()
        if lengths is not None:
            h = h * valid(h, lengths)[..., None]
        return h, mean(h, lengths)[None]


class Readout(nn.Module):
    """ReadoutRNN for any of these layers: y_t = W_hy h_t + b_y.

    `steps` is "all" for y [B, T, C], or "last" for y [B, C] of the final state.
    """

    def __init__(self, rnn: nn.Module, hidden: int, outputs: int, steps: str) -> None:
        super().__init__()
        self.steps = steps
        self.rnn = rnn
        self.readout = nn.Linear(hidden, outputs)

    def forward(
        self, input: Tensor, hx: State | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Map input [B, T, I] to y and the final state."""
        output, state = self.rnn(input, hx, lengths=lengths)
        return self.readout(output if self.steps == "all" else h_of(state)[-1]), state


def recurrent(cell: str, inputs: int, hidden: int) -> nn.Module:
    """Create the layer of a cell, "rnn", "lstm" or "gru", with orthogonal W_hh."""
    layers = {"rnn": FusedRNN, "lstm": FusedLSTM, "gru": FusedGRU}
    return orthogonal(layers[cell](inputs, hidden, batch_first=True))


def readout(cell: str, inputs: int, hidden: int, outputs: int, steps: str) -> ReadoutRNN | Readout:
    """Create the fusing layer with its readout; the cell may also be "none"."""
    if cell == "rnn":
        head = ReadoutRNN(inputs, hidden, outputs, batch_first=True, steps=steps)
        orthogonal(head.rnn)
        return head
    rnn = Memoryless(inputs, hidden) if cell == "none" else recurrent(cell, inputs, hidden)
    return Readout(rnn, hidden, outputs, steps)


def orthogonal(rnn: Layer) -> Layer:
    """Initialise W_hh (of each gate) orthogonally in place, and return the layer.

    States then neither vanish nor explode at the start of training.
    """
    for name, weight in rnn.named_parameters():
        if name.startswith("weight_hh"):
            for gate in weight.detach().split(weight.shape[1]):
                nn.init.orthogonal_(gate)
    return rnn


def valid(x: Tensor, lengths: Tensor) -> Tensor:
    """Mask of the valid steps of x [B, T, ...], bool [B, T]."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Average over each row's valid steps, [B, T, D] -> [B, D]."""
    if lengths is None:
        return x.mean(1)
    return (x * valid(x, lengths)[..., None]).sum(1) / lengths[:, None].to(x.dtype)


def last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Select each row's last valid step, [B, T, D] -> [B, D]; lengths are at least 1."""
    if lengths is None:
        return x[:, -1]
    # shape[0], not len(): a tracing exporter would make len() a constant
    return x[torch.arange(lengths.shape[0], device=x.device), lengths - 1]
