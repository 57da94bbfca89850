"""The loop that a user would write in PyTorch, eager and with torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import Case
from ..workload import Call, Workload, make_call
from .base import Provider


class EagerLoop(Provider):
    """addmm and an activation per step."""

    name = "eager loop"

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        is_plain = case.shape.layers == case.shape.directions == 1 and not case.shape.packed
        return None if is_plain else "the loop computes one direction of one layer, without packing"

    def prepare(self, workload: Workload) -> Call:
        activation = workload.shape.activation
        if workload.case.scope == "layer":
            weight_ih, weight_hh, *biases = weights = list(workload.layer.parameters())
            h0 = weight_hh.new_zeros(workload.shape.B, workload.shape.H)

            def output(x: Tensor) -> Tensor:
                pre = F.linear(x, weight_ih, sum(biases))
                return self.loop(pre, weight_hh.t(), h0, activation)

            return make_call(workload.case.step, output, weights)
        weights = [workload.weight_hh, workload.h0]

        def alone(pre: Tensor) -> Tensor:
            if workload.shape.groups == 1:
                weight_t = workload.weight_hh[0].t()
                out = self.loop(pre[:, :, 0], weight_t, workload.h0[:, 0], activation)
                return out.unsqueeze(2)
            heads_first = pre.transpose(1, 2), workload.weight_hh.mT, workload.h0.transpose(0, 1)
            return self.loop(*heads_first, activation).transpose(1, 2)

        return make_call(workload.case.step, alone, weights)

    def loop(self, pre: Tensor, weight_t: Tensor, h: Tensor, activation: str) -> Tensor:
        return loop(pre, weight_t, h, activation)


def loop(
    pre: Tensor,  # [T, B, H]; with heads [T, G, B, H]
    weight_t: Tensor,  # [H, H]; with heads [G, H, H]: W_hh transposed
    h: Tensor,  # [B, H]; with heads [G, B, H]
    activation: str,
) -> Tensor:
    """Return the hidden states of all steps, in the shape of pre."""
    act = getattr(torch, activation)
    add_product = torch.addmm if h.dim() == 2 else torch.baddbmm
    out = []
    for pre_t in pre.unbind():
        h = act(add_product(pre_t, h, weight_t))
        out.append(h)
    return torch.stack(out)


class CompiledLoop(EagerLoop):
    """The same loop with torch.compile, sixteen steps at a time.

    Compiling hundreds of steps at once takes minutes; a single step costs less than its call.
    `torch._higher_order_ops.scan` is not an alternative yet: in torch 2.13 inductor compiles it
    only for inference, and it is slower than this loop.
    """

    name = "torch.compile"
    compiles = True
    unrolled = 16

    @cached_property
    def _dynamic(self) -> Callable[..., Tensor]:
        return torch.compile(loop, dynamic=True)

    def prepare(self, workload: Workload) -> Call:
        if workload.is_trial:  # one compilation serves all trials
            self._compiled = self._dynamic
        else:
            torch._dynamo.reset()
            self._compiled = torch.compile(loop)
        return super().prepare(workload)

    def loop(self, pre: Tensor, weight_t: Tensor, h: Tensor, activation: str) -> Tensor:
        out = []
        for chunk in pre.split(self.unrolled):
            out.append(self._compiled(chunk, weight_t, h, activation))
            h = out[-1][-1]
        return torch.cat(out)
