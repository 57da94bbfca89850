"""`FusedLSTM`, a drop-in for torch.nn.LSTM that adds heads, resets and single steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import _checks
from ..ops._torch_private import disable_dynamo
from ..ops.arguments import State
from .base import FusedRNNBase

__all__ = ["FusedLSTM"]


class FusedLSTM(FusedRNNBase[tuple[Tensor, Tensor]]):
    r"""A drop-in replacement for `torch.nn.LSTM`: same arguments, parameters, results and errors.

    .. math::
        i_t, f_t, o_t &= \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
        g_t &= \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    Each gate has its own H rows of W and b, in the order i, f, g, o. This is the long short-term
    memory of Hochreiter & Schmidhuber (Neural Computation 9, 1997) with the forget gate of Gers,
    Schmidhuber & Cummins (Neural Computation 12, 2000).

    It is an `nn.RNNBase`, not an `nn.LSTM`, so that ``torch.compile(fullgraph=True)`` accepts it.
    Its parameters have nn.LSTM's names, shapes and initial values: each class loads the other's
    state_dict, and the same seed gives the same weights. TorchScript is not supported.

    In addition to nn.LSTM, it supports rows of different ``lengths``, new sequences at any step
    (``resets``, see `forward`), single steps (`step`), several heads and learned initial states.
    Each of n heads reads only its own H/n elements of h, so W_hh is block-diagonal.

    Below, T is the number of steps, B the batch size, I ``input_size``, H ``hidden_size``,
    L ``num_layers`` and D 2 if ``bidirectional``, else 1.

    Args:
        input_size: I, the number of features of a step.
        hidden_size: H, the number of features of the states h and c.
        num_layers: L; each layer reads the outputs of the previous one.
        bias: whether the layers have b_ih and b_hh.
        batch_first: whether batched input and output are [B, T, ...] instead of [T, B, ...].
        dropout: probability of dropping an output of any layer except the last, in training. The
            attribute is read at every call.
        bidirectional: whether each layer also runs from the last step to the first.
        proj_size: if positive, the number of features of h, which becomes W_hr h (Sak et al.,
            arXiv:1402.1128). nn.LSTM's own implementation then runs the layer, whichever backend is
            selected. It does not support ``lengths``, ``resets``, `step`, heads and learned states.
        device, dtype: device and dtype of the parameters. float64, float32, bfloat16 or float16.
            nn.LSTM's own implementation or the slow reference runs complex dtypes.
        num_heads: n, a divisor of H. W_hh and the recurrence's work shrink to 1/n of one head's.
        learned_h0: whether the initial states are parameters, h0 and c0. A sequence starts from
            them if no hx is given or if a reset begins the sequence.

    Parameters, for layer k, with the suffix ``_reverse`` for the second direction:
        weight_ih_l{k} [4·H, I], or [4·H, D·H] for k > 0; weight_hh_l{k} [4·H, H], or
        [n, 4·H/n, H/n] for n > 1 heads, with the gates in order within each head; bias_ih_l{k} and
        bias_hh_l{k} [4·H]. All are drawn from U(-1/√H, 1/√H), except weight_hh, from
        U(-1/√(H/n), 1/√(H/n)). With ``learned_h0``, the last parameters are h0 and c0 [D·L, H], in
        h_n's order and initially 0. With ``proj_size``, P, there is also weight_hr_l{k} [P, H], and
        P replaces H as the number of columns of weight_hh and of later layers' weight_ih.

    Raises:
        ValueError: nn.LSTM rejects an argument; num_heads is not a positive integer or does not
            divide H; ``proj_size`` comes with several heads or with learned_h0.
        TypeError: an argument has a type that nn.LSTM rejects; learned_h0 is not a bool.

    Example:
        >>> lstm = FusedLSTM(10, 20, num_layers=2)
        >>> output, (h_n, c_n) = lstm(torch.randn(5, 3, 10))
    """

    _torch_layer = nn.LSTM
    _learned = ("h0", "c0")
    _state_names = ("hidden[0]", "hidden[1]")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_heads: int = 1,
        learned_h0: bool = False,
        **unknown: Any,  # nn.RNNBase raises the error
    ) -> None:
        if proj_size:
            _checks.no_projection(num_heads=num_heads != 1, learned_h0=learned_h0)
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            device=device,
            dtype=dtype,
            num_heads=num_heads,
            learned_h0=learned_h0,
            **unknown,
        )

    # nn.RNNBase has these for a single state. nn.LSTM.forward needs them too.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def _forward_of_torch(
        self, input: Tensor | PackedSequence, hx: Any, *given: Any
    ) -> tuple[Tensor | PackedSequence, Any]:
        has_dropout = self.training and self.dropout > 0 and self.num_layers > 1
        if has_dropout and torch.compiler.is_dynamo_compiling():
            return _keep_dropout(super()._forward_of_torch, input, hx, *given)
        return super()._forward_of_torch(input, hx, *given)

    def _state(self, hx: Any) -> State:
        h, c = hx[0], hx[1]
        if len(hx) != 2 and isinstance(hx, (tuple, list)):
            raise RuntimeError("lstm expects two hidden states")
        return State(h, c)

    def _hidden(self, state: State) -> tuple[Tensor, Tensor]:
        return state.h, state.c


@disable_dynamo
def _keep_dropout(function: Any, *args: Any) -> Any:
    """Call a function outside of graphs: torch's decomposition of an LSTM omits its dropout."""
    return function(*args)
