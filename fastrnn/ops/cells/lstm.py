"""The cell of nn.LSTM, with four gates and a second state, c (Hochreiter & Schmidhuber, 1997).

    i, f, o = σ(pre + z)    g = tanh(pre + z)
    c_t = f c_{t-1} + i g   h_t = o tanh(c_t)

c is stored in the storage dtype like h, so that a sequence computes the same as its single steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import State
from .base import Cell, Step, StepGradients, Store, plus, split


class Lstm(Cell):
    """The inner value that a step saves is c."""

    mode = "LSTM"
    gates = 4  #: i, f, g, o
    has_c = saves = has_inner = True
    has_unit_param = False

    @classmethod
    def forward(
        cls, pre: Tensor, z: Tensor, before: State, unit_param: Tensor | None, store: Store
    ) -> Step:
        """See `Cell`."""
        i, f, g, o = split(pre + z, 4)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = store(f * before.c + i * g)
        return Step(State(o * torch.tanh(c), c), torch.cat((i, f, g, o), -1), c)

    @classmethod
    def backward(
        cls, grad: Step, step: Step, before: State, unit_param: Tensor | None
    ) -> StepGradients:
        """See `Cell`."""
        i, f, g, o = split(step.gates, 4)
        tanh_c = torch.tanh(step.inner)
        dh = grad.state.h
        dc = plus(grad.state.c + dh * o * (1 - tanh_c * tanh_c), grad.inner)
        di, df, dg, do = dc * g, dc * before.c, dc * i, dh * tanh_c
        if grad.gates is not None:
            di, df, dg, do = split(torch.cat((di, df, dg, do), -1) + grad.gates, 4)
        dz = (di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o))
        dpre = torch.cat(dz, -1)
        return StepGradients(dpre, dpre, State(torch.zeros_like(dh), dc * f))
