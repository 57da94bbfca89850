"""`FusedRNN`, a drop-in for torch.nn.RNN that adds heads, resets and single steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from ..ops.arguments import State
from .base import FusedRNNBase

__all__ = ["FusedRNN"]


class FusedRNN(FusedRNNBase[Tensor]):
    r"""A drop-in replacement for `torch.nn.RNN`: same arguments, parameters, results and errors.

    .. math:: h_t = \mathrm{act}(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    It is an `nn.RNNBase`, not an `nn.RNN`, so that ``torch.compile(fullgraph=True)`` accepts it.
    Its parameters have nn.RNN's names, shapes and initial values: each class loads the other's
    state_dict, and the same seed gives the same weights. TorchScript is not supported.

    In addition to nn.RNN, it supports rows of different ``lengths``, new sequences at any step
    (``resets``, see `forward`), single steps (`step`), several heads and a learned initial state.
    Each of n heads reads only its own H/n elements of the state, so W_hh is block-diagonal. For
    head j:

    .. math:: h^j_t = \mathrm{act}((W_{ih} x_t + b_{ih} + b_{hh})^j + W^j_{hh} h^j_{t-1})

    A leak α, as in continuous-time networks, where it is Δt / τ, keeps a part of the state, or of
    the pre-activation x, from step to step. With u the argument of act above:

    .. math::
        h_t &= (1 - α) h_{t-1} + α\, \mathrm{act}(u_t) &&\text{leak\_on="state"} \\
        x_t &= (1 - α) x_{t-1} + α\, u_t, \quad h_t = \mathrm{act}(x_t)
            &&\text{leak\_on="preactivation"}

    The first is the form of Song, Yang & Wang (2016) for firing rates, the second that of membrane
    potentials. In the second, x is the state: hx, h_n and learned initial states are values of x,
    and the output is h. Noise is a part of the input: add it to x_t.

    Below, T is the number of steps, B the batch size, I ``input_size``, H ``hidden_size``,
    L ``num_layers`` and D 2 if ``bidirectional``, else 1.

    Args:
        input_size: I, the number of features of a step.
        hidden_size: H, the number of features of the state.
        num_layers: L; each layer reads the outputs of the previous one.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: whether the layers have b_ih and b_hh.
        batch_first: whether batched input and output are [B, T, ...] instead of [T, B, ...].
        dropout: probability of dropping an output of any layer except the last, in training. The
            attribute is read at every call.
        bidirectional: whether each layer also runs from the last step to the first.
        device, dtype: device and dtype of the parameters. float64, float32, bfloat16 or float16.
            nn.RNN's own implementation or the slow reference runs complex dtypes.
        num_heads: n, a divisor of H. W_hh and the recurrence's work shrink to 1/n of one head's.
        learned_h0: whether the initial state is a parameter. A sequence starts from it if no hx is
            given or if a reset begins the sequence.
        leak: α, a number with 0 < α ≤ 1; None for none.
        learned_leak: whether α is a parameter of each hidden unit, ``alpha``, initially ``leak``.
            Nothing keeps it between 0 and 1: use torch.nn.utils.parametrize for that.
        leak_on: what leaks: ``"state"`` or ``"preactivation"``.

    Parameters, for layer k, with the suffix ``_reverse`` for the second direction:
        weight_ih_l{k} [H, I], or [H, D·H] for k > 0; weight_hh_l{k} [H, H], or [n, H/n, H/n] for
        n > 1 heads; bias_ih_l{k} and bias_hh_l{k} [H]. All are drawn from U(-1/√H, 1/√H), except
        weight_hh, from U(-1/√(H/n), 1/√(H/n)). With ``learned_h0``, the last parameter is h0
        [D·L, H], in h_n's order and initially 0. With ``learned_leak``, alpha [D·L, H] follows.

    Raises:
        ValueError: nn.RNN rejects an argument, or ``proj_size`` is given; num_heads is not a
            positive integer or does not divide H; the leak is not between 0 and 1, or is learned
            but not given; leak_on is unknown.
        TypeError: an argument has a type that nn.RNN rejects; learned_h0 or learned_leak is not a
            bool.

    Example:
        >>> rnn = FusedRNN(10, 20, num_layers=2)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
    """

    _torch_layer = nn.RNN

    # Defaults for layers that another version pickled, or that `convert` made from an nn.RNN.
    leak: float | None = None
    learned_leak: bool = False
    leak_on: str = "state"
    alpha: nn.Parameter

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_heads: int = 1,
        learned_h0: bool = False,
        leak: float | None = None,
        learned_leak: bool = False,
        leak_on: str = "state",
        **unknown: Any,  # nn.RNNBase raises the error
    ) -> None:
        if "proj_size" in unknown:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        _checks.leak(leak, learned_leak, leak_on)
        super().__init__(
            "RNN_" + nonlinearity.upper(),
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            num_heads=num_heads,
            learned_h0=learned_h0,
            **unknown,
        )
        self.nonlinearity, self.leak_on = nonlinearity, leak_on
        self.leak = None if leak is None else float(leak)
        self.learned_leak = learned_leak
        if learned_leak and leak is not None:
            states = num_layers * (2 if bidirectional else 1)
            like = next(self.parameters())
            self.alpha = nn.Parameter(like.new_full((states, hidden_size), leak))

    def reset_parameters(self) -> None:
        """Draw new parameters; set a learned initial state to 0, and a learned leak to ``leak``."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if self.leak is not None and "alpha" in name.split("."):
                nn.init.constant_(parameter, self.leak)

    def extra_repr(self) -> str:
        parts = super().extra_repr()
        if self.leak is not None:
            parts += f", leak={self.leak}"
        if self.learned_leak:
            parts += f", learned_leak={self.learned_leak}"
        return parts if self.leak_on == "state" else f"{parts}, leak_on={self.leak_on!r}"

    @property
    def _cell(self) -> str:
        if self.leak is None:
            return self.mode
        kind = "LEAKY_PRE" if self.leak_on == "preactivation" else "LEAKY"
        return self.mode.replace("RNN", kind)

    def _weights(self) -> list[Any]:
        """Return the weights, with the leak of each direction after its other weights."""
        weights = super()._weights()
        if self.leak is None:
            return weights
        runs = self.num_layers * (2 if self.bidirectional else 1)
        if self.learned_leak:
            leaks: Any = self.alpha.unbind()
        else:
            like = {"dtype": weights[0].dtype, "device": weights[0].device}
            leaks = [torch.full((self.hidden_size,), self.leak, **like)] * runs
        count = len(weights) // runs
        return [
            weight
            for k in range(runs)
            for weight in (*weights[k * count : (k + 1) * count], leaks[k])
        ]

    # A leaky pre-activation is the state that hx and h_n hold.

    def _state(self, hx: Tensor) -> State:
        if self.leak is None or self.leak_on == "state":
            return State(hx)
        return State(torch.tanh(hx) if self.nonlinearity == "tanh" else torch.relu(hx), hx)

    def _learned_state(self) -> State:
        return self._state(self.h0)

    def _hidden(self, state: State) -> Tensor:
        return state.h if self.leak is None or self.leak_on == "state" else state.c
