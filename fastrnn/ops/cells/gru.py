"""The cell of nn.GRU, with three gates (Cho et al., 2014, with the reset gate after the product).

r, z = σ(pre + W_hh h_{t-1})    q = W_hn h_{t-1} + b_hn
n = tanh(pre_n + r q)           h_t = (1 - z) n + z h_{t-1}
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import State
from .base import Cell, Step, StepGradients, Store, plus, split


class Gru(Cell):
    """``unit_param`` is b_hn; the inner value that a step saves is q."""

    mode = "GRU"
    gates = 3  #: r, z, n
    has_c = False
    has_unit_param = saves = True

    @classmethod
    def forward(
        cls, pre: Tensor, z: Tensor, before: State, unit_param: Tensor | None, store: Store
    ) -> Step:
        """See `Cell`."""
        pre_r, pre_z, pre_n = split(pre, 3)
        product_r, product_z, q = split(z, 3)
        r, z = torch.sigmoid(pre_r + product_r), torch.sigmoid(pre_z + product_z)
        q = plus(q, unit_param)
        n = torch.tanh(pre_n + r * q)
        h = n + z * (before.h - n)
        return Step(State(h), torch.cat((r, z, n), -1), q)

    @classmethod
    def backward(
        cls, grad: Step, step: Step, before: State, unit_param: Tensor | None
    ) -> StepGradients:
        """See `Cell`."""
        r, z, n = split(step.gates, 3)
        q, dh = step.inner, grad.state.h
        more_r, more_z, more_n = (None,) * 3 if grad.gates is None else split(grad.gates, 3)
        dz = plus(dh * (before.h - n), more_z) * z * (1 - z)
        dn = plus(dh * (1 - z), more_n) * (1 - n * n)
        dq = plus(dn * r, grad.inner)
        dr = plus(dn * q, more_r) * r * (1 - r)
        dpre, product = torch.cat((dr, dz, dn), -1), torch.cat((dr, dz, dq), -1)
        return StepGradients(dpre, product, State(dh * z), dq)
