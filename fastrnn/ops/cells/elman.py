"""The cell of nn.RNN: h_t = act(pre_t + W_hh h_{t-1})."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import State
from .base import Cell, Step, StepGradients, Store


class Tanh(Cell):
    """h = tanh(pre + z)."""

    mode = "RNN_TANH"
    gates = 1
    has_c = has_unit_param = saves = has_inner = False

    @classmethod
    def forward(
        cls, pre: Tensor, z: Tensor, before: State, unit_param: Tensor | None, store: Store
    ) -> Step:
        """See `Cell`."""
        return Step(State(cls.act(pre + z)))

    @classmethod
    def backward(
        cls, grad: Step, step: Step, before: State, unit_param: Tensor | None
    ) -> StepGradients:
        """See `Cell`."""
        dz = cls.act_backward(grad.state.h, step.state.h)
        return StepGradients(dz, dz, State(torch.zeros_like(dz)))

    @staticmethod
    def act(z: Tensor) -> Tensor:
        """Return h."""
        return torch.tanh(z)

    @staticmethod
    def act_backward(dh: Tensor, h: Tensor) -> Tensor:
        """Return dh act'(z) in terms of h, since the forward saves only h."""
        return dh * (1 - h * h)


class Relu(Tanh):
    """h = relu(pre + z)."""

    mode = "RNN_RELU"

    @staticmethod
    def act(z: Tensor) -> Tensor:
        """Return h."""
        return torch.relu(z)

    @staticmethod
    def act_backward(dh: Tensor, h: Tensor) -> Tensor:
        """Return dh where h > 0 and, as in torch, where h is NaN; else 0, even if dh is NaN."""
        return dh.masked_fill(h <= 0, 0)
