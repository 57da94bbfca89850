"""torch.nn.RNN, which runs cuDNN on a GPU."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..shapes import Case
from ..workload import Call, Workload, layer_call
from .base import Provider


class NnRnn(Provider):
    """torch.nn.RNN as shipped.

    The recurrence alone is measured as a layer with one input feature. Its input projection costs
    almost nothing.
    """

    name = "nn.RNN"

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        return "nn.RNN has no heads" if case.shape.groups > 1 else None

    def adapt(self, workload: Workload) -> Workload:
        if workload.case.scope == "layer":
            return workload
        case = replace(workload.case, scope="layer", shape=replace(workload.shape, I=1))
        return Workload(case, workload.device, workload.steps)

    def prepare(self, workload: Workload) -> Call:
        return layer_call(workload.layer, workload.case.step)


class Flattened(NnRnn):
    """nn.RNN in bfloat16 with its weights in one contiguous chunk, as cuDNN expects them.

    `flatten_parameters` skips bfloat16. As shipped, every call copies the weights.
    """

    name = "nn.RNN flattened"
    devices = ("cuda",)

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.mode != "bfloat16":
            return "nn.RNN flattens the weights of other dtypes itself"
        return super().unsupported_reason(case, device)

    def prepare(self, workload: Workload) -> Call:
        layer, shape = workload.layer, workload.shape
        mode = 0 if shape.activation == "relu" else 1  # as torch.backends.cudnn.rnn numbers them
        with torch.no_grad():
            torch._cudnn_rnn_flatten_weight(
                layer._flat_weights,
                4,  # two weights and two biases
                shape.I,
                mode,
                shape.H,
                0,  # no projection
                shape.layers,
                False,  # time first
                shape.bidirectional,
            )
        return super().prepare(workload)
