"""Recurrent layers by name, all with FusedRNN's call signature, and their readout.

`layer(x, h0, lengths=lengths)` takes x [B, T, I], h0 [1, B, H] or None, lengths int [B] or None.
It returns the states [B, T, H], which are 0 beyond a row's length, and the final state [1, B, H].
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from fastrnn import FusedRNN, ReadoutRNN

Layer = TypeVar("Layer", bound=nn.Module)


class PaddedLSTM(nn.LSTM):
    """nn.LSTM over padded rows. It starts from h0 and a zero cell state."""

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the module's docstring; the cell state is not returned."""
        if input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # oneDNN's LSTM supports bfloat16 on some processors only, and fails on the others.
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
    """nn.GRU over padded rows."""

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the module's docstring."""
        return _cut(*super().forward(input, hx), lengths)


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
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map input [B, T, I] to y and the final state [1, B, H]."""
        output, state = self.rnn(input, hx, lengths=lengths)
        return self.readout(output if self.steps == "all" else state[-1]), state


def recurrent(cell: str, inputs: int, hidden: int) -> nn.Module:
    """Create the layer of a cell, "rnn", "lstm" or "gru", with orthogonal W_hh."""
    kinds = {"rnn": FusedRNN, "lstm": PaddedLSTM, "gru": PaddedGRU}
    return orthogonal(kinds[cell](inputs, hidden, batch_first=True))


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


def _cut(output: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Correct the results of a layer that also ran over the padding."""
    if lengths is None:
        return output, state
    return output * valid(output, lengths)[..., None], last(output, lengths)[None]
