"""Cells of nn.RNN's kind with a leak α, as continuous-time models use them.

With u = pre + W_hh h_{t-1}, a leaky state and a leaky pre-activation are

    h_t = (1 - α) h_{t-1} + α act(u)
    x_t = (1 - α) x_{t-1} + α u        h_t = act(x_t)

α is ``unit_param``. For a continuous-time network, α = Δt / τ (Song, Yang & Wang, 2016).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import State
from .base import Cell, Step, StepGradients, Store
from .elman import Relu, Tanh


class LeakyTanh(Cell):
    """A leaky state. The saved gate is act(u)."""

    mode = "LEAKY_TANH"
    gates = 1
    has_c = has_inner = False
    has_unit_param = saves = is_leaky = True
    elman: type[Tanh] = Tanh  #: the cell that has the same activation

    @classmethod
    def forward(cls, pre: Tensor, z: Tensor, before: State, unit_param: Any, store: Store) -> Step:
        """See `Cell`."""
        act = cls.elman.act(pre + z)
        return Step(State(before.h + unit_param * (act - before.h)), act)

    @classmethod
    def backward(cls, grad: Step, step: Step, before: State, unit_param: Any) -> StepGradients:
        """See `Cell`."""
        dh, act = grad.state.h, step.gates
        dact = dh * unit_param if grad.gates is None else dh * unit_param + grad.gates
        dz = cls.elman.act_backward(dact, act)
        return StepGradients(dz, dz, State(dh - dh * unit_param), dh * (act - before.h))


class LeakyRelu(LeakyTanh):
    """A leaky state with relu."""

    mode = "LEAKY_RELU"
    elman = Relu


class LeakyPreTanh(Cell):
    """A leaky pre-activation. The saved gate is u; c, the inner value that a step saves, is x.

    Callers pass h0 = act(c0), and reset_h likewise.
    """

    mode = "LEAKY_PRE_TANH"
    gates = 1
    has_c = has_inner = has_unit_param = saves = is_leaky = True
    elman: type[Tanh] = Tanh

    @classmethod
    def forward(cls, pre: Tensor, z: Tensor, before: State, unit_param: Any, store: Store) -> Step:
        """See `Cell`."""
        u = pre + z
        x = store(before.c + unit_param * (u - before.c))
        return Step(State(cls.elman.act(x), x), u, x)

    @classmethod
    def backward(cls, grad: Step, step: Step, before: State, unit_param: Any) -> StepGradients:
        """See `Cell`."""
        dx = cls.elman.act_backward(grad.state.h, cls.elman.act(step.inner)) + grad.state.c
        if grad.inner is not None:
            dx = dx + grad.inner
        du = dx * unit_param
        if grad.gates is not None:
            du = du + grad.gates
        zero = torch.zeros_like(dx)
        grad_unit_param = dx * (step.gates - before.c)
        return StepGradients(du, du, State(zero, dx - dx * unit_param), grad_unit_param)


class LeakyPreRelu(LeakyPreTanh):
    """A leaky pre-activation with relu."""

    mode = "LEAKY_PRE_RELU"
    elman = Relu
