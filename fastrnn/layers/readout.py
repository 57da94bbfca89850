"""`ReadoutRNN`: a recurrent network with a linear readout of its states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from ._fx import record_call
from .rnn import FusedRNN

__all__ = ["ReadoutRNN"]


class ReadoutRNN(nn.Module):
    r"""A recurrent network with a linear readout: `FusedRNN`, then `nn.Linear`.

    .. math::
        h_t &= \mathrm{act}(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
        y_t &= W_{hy} h_t + b_y

    W_hy is ``readout.weight`` [C, D·H] and b_y ``readout.bias`` [C], with C ``output_size``.

    Args:
        input_size, hidden_size: as for `FusedRNN`.
        output_size: C, the number of features of the readout.
        *args: the other arguments of `FusedRNN`, in its order: num_layers, nonlinearity, bias,
            batch_first, dropout, bidirectional. The readout has a bias even with ``bias=False``.
        **kwargs: the same by keyword, and num_heads and learned_h0.
        steps: ``"all"`` for y at every step, ``"last"`` for one y per row, from its last step.
            With ``bidirectional``, the last y reads h_n: the forward direction after the row's last
            step and the reverse direction after its first, so that both have read the whole row.
        device, dtype: device and dtype of all parameters.

    Raises:
        ValueError: steps is neither ``"all"`` nor ``"last"``, or `FusedRNN` raises it.
        TypeError: steps, device or dtype is passed by position, or `FusedRNN` raises it.

    Example:
        >>> net = ReadoutRNN(10, 20, 3, num_layers=2, steps="last")
        >>> y, h_n = net(torch.randn(5, 4, 10))  # y [4, 3]
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *args: Any,
        steps: str = "all",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if steps not in ("all", "last"):
            raise ValueError(f"steps must be 'all' or 'last', got {steps!r}")
        if len(args) > 6:  # after bidirectional
            raise TypeError("ReadoutRNN takes steps, device and dtype by keyword: steps='last'")
        super().__init__()
        self.steps = steps
        kwargs |= {"device": device, "dtype": dtype}
        self.rnn = FusedRNN(input_size, hidden_size, *args, **kwargs)
        features = hidden_size * (2 if self.rnn.bidirectional else 1)
        self.readout = nn.Linear(features, output_size, device=device, dtype=dtype)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | PackedSequence | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the network over a batch of sequences. Arguments and errors are those of `FusedRNN`.

        Returns:
            y: [T, B, C], [B, T, C] with ``batch_first``, [T, C] for one sequence, or a
                PackedSequence, like the input. Past the end of a row (``lengths``), h is 0 and y is
                b_y. With ``steps="last"``, [B, C] or [C], in the caller's order of rows.
            h_n: [D·L, B, H], or [D·L, H] for one sequence.
        """
        if any(isinstance(x, Proxy) for x in (input, hx, lengths, resets)):
            result = record_call(self, input, hx, lengths=lengths, resets=resets)
            if result is not None:
                return result
        output, h_n = self.rnn(input, hx, lengths=lengths, resets=resets)
        if self.steps == "last":
            directions = 2 if self.rnn.bidirectional else 1
            # [D, B, H] -> [B, D·H], or [D, H] -> [D·H]
            return self.readout(h_n[-directions:].transpose(0, -2).flatten(-2)), h_n
        if isinstance(output, PackedSequence):
            # Compiled, _replace returns an empty tuple.
            return PackedSequence(self.readout(output.data), *output[1:]), h_n
        return self.readout(output), h_n

    def step(
        self, input: Tensor, hx: Tensor | None = None, *, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run one step of every row. Arguments and errors are those of `FusedRNN.step`.

        Returns:
            y: [B, C], or [C] for one sequence: the readout of the states after the step.
            h_n: [L, B, H], or [L, H]: the states after the step.
        """
        output, h_n = self.rnn.step(input, hx, resets=resets)
        return self.readout(output), h_n

    def extra_repr(self) -> str:
        return f"steps={self.steps!r}"
