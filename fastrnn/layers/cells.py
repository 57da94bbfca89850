"""`FusedRNNCell`, `FusedLSTMCell` and `FusedGRUCell`, drop-ins for torch.nn's cells.

A single step leaves nothing to fuse. So a cell calls torch's own operation on every device, with
less Python overhead than torch's cell, and does not depend on the selected backend.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..ops.arguments import State
from ..ops.cells import CELLS, CODES, RNN_MODES
from ._expanded_weights import are_expanded
from ._fx import is_traced, record_call

__all__ = ["FusedGRUCell", "FusedLSTMCell", "FusedRNNCell"]

_OPERATIONS = {"tanh": torch.rnn_tanh_cell, "relu": torch.rnn_relu_cell}
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class FusedRNNCell(nn.RNNCell):
    r"""A drop-in for `torch.nn.RNNCell`: one step of a `FusedRNN` layer.

    .. math:: h' = \mathrm{act}(W_{ih} x + b_{ih} + W_{hh} h + b_{hh})

    Stepping the cell over a sequence computes the same as a FusedRNN with the same weights, up to
    rounding. `FusedRNN.step` gives the same bits as the sequence. A single step leaves nothing to
    fuse, so the cell calls torch's own operation on every device, with less Python overhead than
    nn.RNNCell. It does not depend on the selected backend.

    Below, I is ``input_size``, H ``hidden_size`` and B the batch size.

    Args:
        input_size: I, the number of features of a step.
        hidden_size: H, the number of features of the state.
        bias: whether the cell has b_ih and b_hh.
        nonlinearity: ``"tanh"`` or ``"relu"``; the attribute is read at every call.
        device, dtype: device and dtype of the parameters.

    Parameters, drawn from U(-1/√H, 1/√H):
        weight_ih [H, I], weight_hh [H, H], bias_ih [H], bias_hh [H].
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Compute one step.

        Args:
            input: [B, I] or [I], of the parameters' dtype, except under autocast.
            hx: [B, H] or [H], batched like input; None for zeros.

        Returns:
            The new state, [B, H] or [H].

        Raises:
            ValueError: input or hx is neither 1-D nor 2-D.
            RuntimeError: sizes, dtypes or devices do not match; the nonlinearity is unknown.
        """
        if is_traced(input, hx):
            result = record_call(self, input, hx)
            if result is not None:
                return result
        dim = _dim("RNNCell", input)
        if hx is not None:
            _check_state("RNNCell", "hidden", hx)
        if self.nonlinearity not in _OPERATIONS:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        if dim == 1:
            input, hx = input.unsqueeze(0), hx if hx is None else hx.unsqueeze(0)
        if hx is None:
            hx = input.new_zeros(input.size(0), self.hidden_size)
        weights = _weights(self)
        if are_expanded(weights):
            h = _step_by_linear(RNN_MODES[self.nonlinearity], input, State(hx), weights).h
        else:
            h = _OPERATIONS[self.nonlinearity](input, hx, *weights)
        return h if dim == 2 else h.squeeze(0)


class FusedLSTMCell(nn.LSTMCell):
    r"""A drop-in for `torch.nn.LSTMCell`: one step of a `FusedLSTM` layer.

    .. math::
        i, f, o &= \sigma(W_{ih} x + b_{ih} + W_{hh} h + b_{hh}) \\
        g &= \tanh(W_{ih} x + b_{ih} + W_{hh} h + b_{hh}) \\
        c' &= f \odot c + i \odot g \\
        h' &= o \odot \tanh(c')

    Each gate has its own H rows of W and b, in the order i, f, g, o. Stepping the cell over a
    sequence computes the same as a FusedLSTM with the same weights, up to rounding.
    `FusedLSTM.step` gives the same bits as the sequence. The cell calls torch's own operation on
    every device, with less Python overhead than nn.LSTMCell.

    Below, I is ``input_size``, H ``hidden_size`` and B the batch size.

    Args:
        input_size: I, the number of features of a step.
        hidden_size: H, the number of features of each state.
        bias: whether the cell has b_ih and b_hh.
        device, dtype: device and dtype of the parameters.

    Parameters, drawn from U(-1/√H, 1/√H):
        weight_ih [4·H, I], weight_hh [4·H, H], bias_ih [4·H], bias_hh [4·H].
    """

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute one step.

        Args:
            input: [B, I] or [I], of the parameters' dtype, except under autocast.
            hx: the pair (h, c), each [B, H] or [H], batched like input; None for zeros.

        Returns:
            The new pair (h, c), each [B, H] or [H].

        Raises:
            ValueError: input, h or c is neither 1-D nor 2-D.
            RuntimeError: sizes, dtypes or devices do not match; hx are not two tensors.
        """
        if is_traced(input, hx):
            result = record_call(self, input, hx)
            if result is not None:
                return result
        dim = _dim("LSTMCell", input)
        if hx is not None:
            for index, state in enumerate(hx):
                _check_state("LSTMCell", f"hx[{index}]", state)
        if dim == 1:
            input = input.unsqueeze(0)
            hx = hx if hx is None else (hx[0].unsqueeze(0), hx[1].unsqueeze(0))
        if hx is None:
            zeros = input.new_zeros(input.size(0), self.hidden_size)
            hx = zeros, zeros
        weights = _weights(self)
        if are_expanded(weights):
            h, c = _step_by_linear("LSTM", input, State(hx[0], hx[1]), weights)
        else:
            h, c = torch.lstm_cell(input, hx, *weights)
        return (h, c) if dim == 2 else (h.squeeze(0), c.squeeze(0))


class FusedGRUCell(nn.GRUCell):
    r"""A drop-in for `torch.nn.GRUCell`: one step of a `FusedGRU` layer.

    .. math::
        r, z &= \sigma(W_{ih} x + b_{ih} + W_{hh} h + b_{hh}) \\
        n &= \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn})) \\
        h' &= (1 - z) \odot n + z \odot h

    Each gate has its own H rows of W and b, in the order r, z, n. Stepping the cell over a sequence
    computes the same as a FusedGRU with the same weights, up to rounding. `FusedGRU.step` gives the
    same bits as the sequence. The cell calls torch's own operation on every device, with less
    Python overhead than nn.GRUCell.

    Below, I is ``input_size``, H ``hidden_size`` and B the batch size.

    Args:
        input_size: I, the number of features of a step.
        hidden_size: H, the number of features of the state.
        bias: whether the cell has b_ih and b_hh.
        device, dtype: device and dtype of the parameters.

    Parameters, drawn from U(-1/√H, 1/√H):
        weight_ih [3·H, I], weight_hh [3·H, H], bias_ih [3·H], bias_hh [3·H].
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Compute one step.

        Args:
            input: [B, I] or [I], of the parameters' dtype, except under autocast.
            hx: [B, H] or [H], batched like input; None for zeros.

        Returns:
            The new state, [B, H] or [H].

        Raises:
            ValueError: input or hx is neither 1-D nor 2-D.
            RuntimeError: sizes, dtypes or devices do not match.
        """
        if is_traced(input, hx):
            result = record_call(self, input, hx)
            if result is not None:
                return result
        dim = _dim("GRUCell", input)
        if hx is not None:
            _check_state("GRUCell", "hidden", hx)
        if dim == 1:
            input, hx = input.unsqueeze(0), hx if hx is None else hx.unsqueeze(0)
        if hx is None:
            hx = input.new_zeros(input.size(0), self.hidden_size)
        weights = _weights(self)
        if are_expanded(weights):
            h = _step_by_linear("GRU", input, State(hx), weights).h
        else:
            h = torch.gru_cell(input, hx, *weights)
        return h if dim == 2 else h.squeeze(0)


def _dim(cell: str, input: Tensor) -> int:
    """Return input's number of dimensions, 1 or 2."""
    dim = input.dim()
    if dim not in (1, 2):
        raise ValueError(f"{cell}: Expected input to be 1D or 2D, got {dim}D instead")
    return dim


def _check_state(cell: str, name: str, state: Tensor) -> None:
    if state.dim() not in (1, 2):
        raise ValueError(f"{cell}: Expected {name} to be 1D or 2D, got {state.dim()}D instead")


def _weights(cell: nn.RNNCellBase) -> list[Any]:
    own = cell._parameters  # attributes of a Module are slow to find
    return [own[name] if name in own else getattr(cell, name) for name in _NAMES]


def _step_by_linear(
    mode: str,
    input: Tensor,  # [B, I]
    before: State,  # [B, H] each
    weights: list[Any],
) -> State:
    """Compute a step with expanded weights, which torch's own operations do not support."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    pre, z = linear(input, weight_ih, bias_ih), linear(before.h, weight_hh, bias_hh)
    return CELLS[CODES[mode]].forward(pre, z, before, None, lambda c: c).state
