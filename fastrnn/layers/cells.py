"""`FusedRNNCell`, a drop-in for torch.nn.RNNCell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.functional import linear

from ._expanded_weights import are_expanded
from ._fx import record_call

__all__ = ["FusedRNNCell"]

_OPERATIONS = {"tanh": torch.rnn_tanh_cell, "relu": torch.rnn_relu_cell}
_ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
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
        if isinstance(input, Proxy) or (hx is not None and isinstance(hx, Proxy)):
            result = record_call(self, input, hx)
            if result is not None:
                return result
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"RNNCell: Expected input to be 1D or 2D, got {dim}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"RNNCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        if self.nonlinearity not in _OPERATIONS:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        if dim == 1:
            input, hx = input.unsqueeze(0), hx if hx is None else hx.unsqueeze(0)
        if hx is None:
            hx = input.new_zeros(input.size(0), self.hidden_size)
        own = self._parameters  # attributes of a Module are slow to find
        weights: list[Any] = [own[name] if name in own else getattr(self, name) for name in _NAMES]
        if are_expanded(weights):  # torch's own operation does not support them
            weight_ih, weight_hh, bias_ih, bias_hh = weights
            pre = linear(input, weight_ih, bias_ih) + linear(hx, weight_hh, bias_hh)
            output = _ACTIVATIONS[self.nonlinearity](pre)
        else:
            output = _OPERATIONS[self.nonlinearity](input, hx, *weights)
        return output if dim == 2 else output.squeeze(0)
