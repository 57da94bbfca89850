"""torch's own layers: cuDNN on a GPU, and for an LSTM oneDNN on a CPU."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..cells import CELLS
from ..shapes import Case
from ..workload import Call, Workload, layer_call
from .base import Provider

#: The cells as torch.backends.cudnn.rnn numbers them.
CUDNN_MODES = {"relu": 0, "tanh": 1, "lstm": 2, "gru": 3}


class NnRnn(Provider):
    """nn.RNN, nn.LSTM or nn.GRU as shipped.

    The recurrence alone is measured as a layer with one input feature. Its input projection costs
    almost nothing.
    """

    def __init__(self, cell: str = "rnn") -> None:
        self.cell = cell
        self.name = CELLS[cell].torch_layer

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.shape.cell != self.cell:
            return f"{self.name} has another cell"
        return f"{self.name} has no heads" if case.shape.groups > 1 else None

    def adapt(self, workload: Workload) -> Workload:
        if workload.case.scope == "layer":
            return workload
        case = replace(workload.case, scope="layer", shape=replace(workload.shape, I=1))
        return Workload(case, workload.device, workload.steps)

    def prepare(self, workload: Workload) -> Call:
        return layer_call(workload.layer, workload.case.step)


class Flattened(NnRnn):
    """The layer in bfloat16 with its weights in one contiguous chunk, as cuDNN expects them.

    `flatten_parameters` skips bfloat16. As shipped, every call copies the weights.
    """

    devices = ("cuda",)

    def __init__(self, cell: str = "rnn") -> None:
        super().__init__(cell)
        self.name = f"{self.name} flattened"

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.mode != "bfloat16":
            return "torch flattens the weights of other dtypes itself"
        return super().unsupported_reason(case, device)

    def prepare(self, workload: Workload) -> Call:
        layer, shape = workload.layer, workload.shape
        with torch.no_grad():
            torch._cudnn_rnn_flatten_weight(
                layer._flat_weights,
                4,  # two weights and two biases
                shape.I,
                CUDNN_MODES[shape.activation if shape.cell == "rnn" else shape.cell],
                shape.H,
                0,  # no projection
                shape.layers,
                False,  # time first
                shape.bidirectional,
            )
        return super().prepare(workload)
