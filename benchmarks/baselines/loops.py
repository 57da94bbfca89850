"""The loop that a user would write in PyTorch, eager and with torch.compile."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cells import State, initial_state, loop
from ..shapes import Case
from ..workload import Call, Workload, make_call
from .base import Provider


class EagerLoop(Provider):
    """addmm and the activations, step by step."""

    name = "eager loop"

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        is_plain = case.shape.layers == case.shape.directions == 1 and not case.shape.packed
        return None if is_plain else "the loop computes one direction of one layer, without packing"

    def prepare(self, workload: Workload) -> Call:
        if workload.case.scope != "layer":
            return workload.recurrence_call(workload.weight_hh, workload.h0, self.loop)
        shape = workload.shape
        weight_ih, weight_hh, *biases = weights = list(workload.layer.parameters())
        state = initial_state(shape.cell, weight_hh, shape.B, shape.H)

        def output(x: Tensor) -> Tensor:
            added, bias = (biases[0], biases[1]) if shape.cell == "gru" else (sum(biases), None)
            pre = F.linear(x, weight_ih, added)
            return self.loop(shape.cell, pre, weight_hh.t(), bias, state, shape.activation)[0]

        return make_call(workload.case.step, output, weights)

    def loop(self, *arguments: Any) -> tuple[Tensor, State]:
        """Run `cells.loop`."""
        return loop(*arguments)


class CompiledLoop(EagerLoop):
    """The same loop with torch.compile, sixteen steps at a time.

    Compiling hundreds of steps at once takes minutes; a single step costs less than its call.
    `torch._higher_order_ops.scan` is not an alternative yet: in torch 2.13 inductor compiles it
    only for inference, and it is slower than this loop.
    """

    name = "torch.compile"
    compiles = True
    unrolled = 16

    def __init__(self) -> None:
        self._cell = ""  #: of the trials that the compiled function serves

    def prepare(self, workload: Workload) -> Call:
        cell, is_trial = workload.shape.cell, workload.is_trial
        if not is_trial or cell != self._cell:  # one compilation serves all trials of a cell
            torch._dynamo.reset()
            self._compiled = torch.compile(loop, dynamic=True if is_trial else None)
            self._cell = cell if is_trial else ""
        return super().prepare(workload)

    def loop(self, *arguments: Any) -> tuple[Tensor, State]:
        """Run `cells.loop`, compiled, over one part of the steps after another."""
        cell, pre, weight_t, bias, state, activation = arguments
        out = []
        for part in pre.split(self.unrolled):
            hidden, state = self._compiled(cell, part, weight_t, bias, state, activation)
            out.append(hidden)
        return torch.cat(out), state
