"""`ReadoutRNN`: a recurrent network with a linear readout of its states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ._fx import is_traced, record_call
from .gru import FusedGRU
from .lstm import FusedLSTM
from .rnn import FusedRNN

__all__ = ["ReadoutRNN"]

_LAYERS = {"rnn": FusedRNN, "lstm": FusedLSTM, "gru": FusedGRU}


class ReadoutRNN(nn.Module):
    r"""A recurrent network with a linear readout: `FusedRNN`, then `nn.Linear`.

    .. math::
        h_t &= \mathrm{act}(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
        y_t &= W_{hy} h_t + b_y

    W_hy is ``readout.weight`` [C, D·H] and b_y ``readout.bias`` [C], with C ``output_size``. With
    ``cell``, h is that of a `FusedLSTM` or a `FusedGRU`. The layer is the attribute ``rnn``.

    Args:
        input_size, hidden_size: as for the layer.
        output_size: C, the number of features of the readout.
        *args: the other arguments of the layer, in its order. For `FusedRNN`: num_layers,
            nonlinearity, bias, batch_first, dropout, bidirectional. The readout has a bias even
            with ``bias=False``.
        **kwargs: the same by keyword, and num_heads, learned_h0 and for `FusedRNN` the leak.
        cell: ``"rnn"`` for a `FusedRNN`, ``"lstm"`` for a `FusedLSTM`, ``"gru"`` for a `FusedGRU`.
        steps: ``"all"`` for y at every step, ``"last"`` for one y per row, from its last step.
            With ``bidirectional``, the last y reads h_n: the forward direction after the row's last
            step and the reverse direction after its first, so that both have read the whole row.
        device, dtype: device and dtype of all parameters.

    Raises:
        ValueError: steps or cell is none of these values, or the layer raises it.
        TypeError: cell, steps, device or dtype is passed by position, or the layer raises it.

    Example:
        >>> net = ReadoutRNN(10, 20, 3, num_layers=2, cell="gru", steps="last")
        >>> y, h_n = net(torch.randn(5, 4, 10))  # y [4, 3]
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *args: Any,
        cell: str = "rnn",
        steps: str = "all",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if steps not in ("all", "last"):
            raise ValueError(f"steps must be 'all' or 'last', got {steps!r}")
        if cell not in _LAYERS:
            raise ValueError(f"cell must be 'rnn', 'lstm' or 'gru', got {cell!r}")
        if len(args) > (5 if cell == "gru" else 6):  # after bidirectional, or the LSTM's proj_size
            raise TypeError(
                "ReadoutRNN takes cell, steps, device and dtype by keyword: steps='last'"
            )
        super().__init__()
        self.steps = steps
        kwargs |= {"device": device, "dtype": dtype}
        self.rnn = _LAYERS[cell](input_size, hidden_size, *args, **kwargs)
        features = (self.rnn.proj_size or hidden_size) * (2 if self.rnn.bidirectional else 1)
        self.readout = nn.Linear(features, output_size, device=device, dtype=dtype)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Tensor | None = None,
        resets: Tensor | PackedSequence | None = None,
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Run the network over a batch of sequences. Arguments and errors are those of the layer.

        Returns:
            y: [T, B, C], [B, T, C] with ``batch_first``, [T, C] for one sequence, or a
                PackedSequence, like the input. Past the end of a row (``lengths``), h is 0 and y is
                b_y. With ``steps="last"``, [B, C] or [C], in the caller's order of rows.
            h_n: [D·L, B, H], or [D·L, H] for one sequence. For the LSTM a pair (h_n, c_n).
        """
        if is_traced(input, hx, lengths, resets):
            result = record_call(self, input, hx, lengths=lengths, resets=resets)
            if result is not None:
                return result
        output, h_n = self.rnn(input, hx, lengths=lengths, resets=resets)
        if self.steps == "last":
            directions = 2 if self.rnn.bidirectional else 1
            last: Any = self.rnn._state(h_n)  # h_n may be a pair, or a leaky pre-activation
            # [D, B, H] -> [B, D·H], or [D, H] -> [D·H]
            return self.readout(last.h[-directions:].transpose(0, -2).flatten(-2)), h_n
        if isinstance(output, PackedSequence):
            # Compiled, _replace returns an empty tuple.
            return PackedSequence(self.readout(output.data), *output[1:]), h_n
        return self.readout(output), h_n

    def step(
        self, input: Tensor, hx: Any = None, *, resets: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Run one step of every row. Arguments and errors are those of the layer's `step`.

        Returns:
            y: [B, C], or [C] for one sequence: the readout of the states after the step.
            h_n: [L, B, H], or [L, H]: the states after the step. For the LSTM a pair (h, c).
        """
        output, h_n = self.rnn.step(input, hx, resets=resets)
        return self.readout(output), h_n

    def extra_repr(self) -> str:
        return f"steps={self.steps!r}"
