"""`FusedRNNCell`, a drop-in for torch.nn.RNNCell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _checks, functional

__all__ = ["FusedRNNCell"]


class FusedRNNCell(nn.RNNCellBase):
    r"""A drop-in for `torch.nn.RNNCell`: one step of a `FusedRNN` layer.

    .. math:: h' = act(W_{ih} x + b_{ih} + W_{hh} h + b_{hh})

    Stepping it over a sequence computes what a FusedRNN with the same weights does. With
    I ``input_size``, H ``hidden_size`` and B the batch size:

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are b_ih and b_hh.
        nonlinearity: ``"tanh"`` or ``"relu"``; the attribute is read at every call.
        device, dtype: of the parameters.

    Parameters:
        weight_ih [H, I], weight_hh [H, H], bias_ih [H], bias_hh [H], drawn from U(-1/√H, 1/√H).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            input: [B, I] or [I], of the parameters' dtype, save under autocast.
            hx: [B, H] or [H], as input; None for zeros.

        Returns:
            The new state, [B, H] or [H].

        Raises:
            ValueError: input or hx is neither 1-D nor 2-D.
            RuntimeError: sizes, dtypes or devices do not fit together; no such nonlinearity.
        """
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"RNNCell: Expected input to be 1D or 2D, got {dim}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"RNNCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        if dim == 1:
            input, hx = input.unsqueeze(0), hx if hx is None else hx.unsqueeze(0)
        if input.size(1) != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.size(1)} expected {self.input_size}"
            )
        if hx is not None:
            _checks.cell_hidden(hx, input.size(0), self.hidden_size)
            hx = hx.unsqueeze(0)
        weights = [self.weight_ih, self.weight_hh]
        if self.bias:
            weights += [self.bias_ih, self.bias_hh]
        _checks.attributes(input, weights[0], hx)
        output, _ = functional.rnn(
            input.unsqueeze(0), hx, weights, bias=bool(self.bias), activation=self.nonlinearity
        )
        return output[0] if dim == 2 else output[0, 0]
