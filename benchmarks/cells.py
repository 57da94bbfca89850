"""The cells of the layers: their sizes, and the equations of a step in plain PyTorch.

The loops of `baselines.loops` run these equations, and so does the truth of a recurrence in
float64. Symbols: T steps, B batch rows, H hidden units, K gates, with the gates in torch's order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: h, and c of an LSTM: [B, H] each; with heads [G, B, H].
State = tuple[Tensor, ...]

#: The signature of `loop`.
Loop = Callable[..., tuple[Tensor, State]]

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class Cell(NamedTuple):
    """What distinguishes a cell from another one."""

    layer: str  #: the layer's name in torch.nn; ours begins with Fused
    gates: int  #: K
    saved: int  #: numbers per row, step and unit that the backward needs beyond h

    @property
    def torch_layer(self) -> str:
        """The name of torch's layer as a baseline."""
        return f"nn.{self.layer}"


CELLS = {
    "rnn": Cell("RNN", 1, 0),
    "lstm": Cell("LSTM", 4, 5),  # the gates after their activation, and c
    "gru": Cell("GRU", 3, 4),  # the gates, and q = W_hn h + b_hn
}


def initial_state(cell: str, like: Tensor, *size: int) -> State:
    """Return a state of zeros: h, and c if the cell has it."""
    return tuple(like.new_zeros(size) for _ in range(2 if cell == "lstm" else 1))


def _rnn(
    pre: Tensor, weight_t: Tensor, bias: Tensor | None, state: State, activation: str
) -> State:
    (h,) = state
    add_product = torch.addmm if h.dim() == 2 else torch.baddbmm
    return (ACTIVATIONS[activation](add_product(pre, h, weight_t)),)


def _lstm(
    pre: Tensor, weight_t: Tensor, bias: Tensor | None, state: State, activation: str
) -> State:
    h, c = state
    i, f, g, o = torch.addmm(pre, h, weight_t).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(
    pre: Tensor, weight_t: Tensor, bias: Tensor | None, state: State, activation: str
) -> State:
    (h,) = state
    assert bias is not None  # b_hn is inside the product with r, so it cannot be a part of pre
    pre_r, pre_z, pre_n = pre.chunk(3, 1)
    product_r, product_z, q = torch.addmm(bias, h, weight_t).chunk(3, 1)
    r, z = torch.sigmoid(pre_r + product_r), torch.sigmoid(pre_z + product_z)
    n = torch.tanh(pre_n + r * q)
    return (n + z * (h - n),)


_STEPS: dict[str, Callable[[Tensor, Tensor, Tensor | None, State, str], State]] = {
    "rnn": _rnn,
    "lstm": _lstm,
    "gru": _gru,
}


def loop(
    cell: str,
    pre: Tensor,  # [T, B, K·H]; with heads [T, G, B, H]
    weight_t: Tensor,  # [H, K·H]; with heads [G, H, H]: W_hh transposed
    bias: Tensor | None,  # [K·H]: b_hh of a GRU; other cells have it in pre
    state: State,
    activation: str = "tanh",
) -> tuple[Tensor, State]:
    """Run a cell over all steps, and return h of every step, [T, B, H], and the last state."""
    step, out = _STEPS[cell], []
    for pre_t in pre.unbind():
        state = step(pre_t, weight_t, bias, state, activation)
        out.append(state[0])
    return torch.stack(out), state


def recurrence(
    pre: Tensor,  # [T, B, G, H]
    weight_hh: Tensor,  # [G, H, H]
    h0: Tensor,  # [B, G, H]
    activation: str,
    run: Loop = loop,
) -> Tensor:  # as pre
    """Run the recurrence of nn.RNN's cell alone, with heads or without."""
    if pre.shape[2] == 1:
        weight_t, state = weight_hh[0].t(), (h0[:, 0],)
        return run("rnn", pre[:, :, 0], weight_t, None, state, activation)[0].unsqueeze(2)
    state = (h0.transpose(0, 1),)
    heads_first = pre.transpose(1, 2), weight_hh.mT, None, state, activation
    return run("rnn", *heads_first)[0].transpose(1, 2)
