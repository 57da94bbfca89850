"""Recurrent layers by name, all called as FusedRNN is, and the readout of their states.

`layer(x, h0, lengths=lengths)` takes x [B, T, I], h0 [1, B, H] or None, lengths int [B] or None,
and returns the states [B, T, H], 0 beyond a row's length, and the state [1, B, H] that is left.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from fastrnn import FusedRNN, ReadoutRNN

Layer = TypeVar("Layer", bound=nn.Module)


class PaddedLSTM(nn.LSTM):
    """torch's LSTM over padded rows. It starts from h0 with an empty cell."""

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the module; the cell's own state stays inside."""
        if input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # oneDNN's LSTM takes bfloat16 on some processors only, and says so by failing.
            with torch.autocast("cpu", enabled=False):
                return self._run(input.float(), None if hx is None else hx.float(), lengths)
        return self._run(input, hx, lengths)

    def _run(
        self, input: Tensor, hx: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        start = None if hx is None else (hx, torch.zeros_like(hx))
        output, (state, _) = super().forward(input, start)
        return _cut(output, state, lengths)


class PaddedGRU(nn.GRU):
    """torch's GRU over padded rows."""

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the module."""
        return _cut(*super().forward(input, hx), lengths)


class Memoryless(nn.Module):
    """A recurrent layer without W_hh: h_t = tanh(W_xh x_t + b + h0). What is left is their mean.

    With nothing carried from step to step, a start h0 can only be seen by all of them alike.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)

    def forward(
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the module."""
        pre = self.hidden(input)
        if hx is not None:
            pre = pre + hx.transpose(0, 1)
        h = pre.tanh()
        if lengths is not None:
            h = h * valid(h, lengths)[..., None]
        return h, mean(h, lengths)[None]


class Readout(nn.Module):
    """ReadoutRNN around any of these layers: y_t = W_hy h_t + b_y.

    `steps` is "all" for y [B, T, C], or "last" for y [B, C] of the state that is left.
    """

    def __init__(self, rnn: nn.Module, hidden: int, outputs: int, steps: str) -> None:
        super().__init__()
        self.steps = steps
        self.rnn = rnn
        self.readout = nn.Linear(hidden, outputs)

    def forward(
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[B, T, I] -> y, and the state [1, B, H] that is left."""
        output, state = self.rnn(input, hx, lengths=lengths)
        return self.readout(output if self.steps == "all" else state[-1]), state


def recurrent(cell: str, inputs: int, hidden: int) -> nn.Module:
    """The layer of a cell's name, "rnn", "lstm" or "gru", its W_hh orthogonal."""
    kinds = {"rnn": FusedRNN, "lstm": PaddedLSTM, "gru": PaddedGRU}
    return orthogonal(kinds[cell](inputs, hidden, batch_first=True))


def readout(cell: str, inputs: int, hidden: int, outputs: int, steps: str) -> ReadoutRNN | Readout:
    """The fusing layer with its readout; the cell may also be "none"."""
    if cell == "rnn":
        head = ReadoutRNN(inputs, hidden, outputs, batch_first=True, steps=steps)
        orthogonal(head.rnn)
        return head
    rnn = Memoryless(inputs, hidden) if cell == "none" else recurrent(cell, inputs, hidden)
    return Readout(rnn, hidden, outputs, steps)


def orthogonal(rnn: Layer) -> Layer:
    """The same layer, W_hh orthogonal (each gate's): states neither fade nor grow at the start."""
    for name, weight in rnn.named_parameters():
        if name.startswith("weight_hh"):
            for gate in weight.detach().split(weight.shape[1]):
                nn.init.orthogonal_(gate)
    return rnn


def valid(x: Tensor, lengths: Tensor) -> Tensor:
    """bool [B, T]: the steps of x [B, T, ...] that rows of these lengths have."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    """[B, T, D] -> [B, D]: the mean over a row's steps."""
    if lengths is None:
        return x.mean(1)
    return (x * valid(x, lengths)[..., None]).sum(1) / lengths[:, None].to(x.dtype)


def last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """[B, T, D] -> [B, D]: a row's last step; lengths are at least 1."""
    if lengths is None:
        return x[:, -1]
    # shape[0], not len: an exporter that traces would take len for a constant
    return x[torch.arange(lengths.shape[0], device=x.device), lengths - 1]


def _cut(output: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a layer that ran over the padding would have given without it."""
    if lengths is None:
        return output, state
    return output * valid(output, lengths)[..., None], last(output, lengths)[None]
