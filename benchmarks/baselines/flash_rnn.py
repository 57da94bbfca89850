"""FlashRNN's Elman network."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from ..precision import MODES
from ..shapes import Case
from ..workload import Call, Workload, make_call
from .base import Provider


class FlashRnn(Provider):
    """The recurrence alone. The first call of each shape compiles.

    Args:
        backend: the name of a backend of FlashRNN.
    """

    devices = ("cuda",)
    compiles = True

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.name = f"FlashRNN {backend}"

    def unavailable_reason(self, device: str) -> str | None:
        return None if find_spec("flashrnn") else "flashrnn is not installed"

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.scope != "recurrence":
            return "FlashRNN computes only the recurrence"
        if case.shape.activation != "tanh":
            return "FlashRNN's Elman network supports only tanh"
        if case.mode == "float32":
            return "FlashRNN has no strict float32"
        return None

    def prepare(self, workload: Workload) -> Call:
        from flashrnn.flashrnn.flashrnn import FlashRNNConfig, flashrnn

        shape = workload.shape
        config = FlashRNNConfig(
            backend=self.backend,
            function="elman",
            num_heads=shape.groups,
            head_dim=shape.H,
            batch_size=shape.B,
            input_shape="TBGHD",
            output_shape="STBHD",
            dtype=str(MODES[workload.case.mode].dtype).removeprefix("torch."),
        )
        bias = workload.h0.new_zeros(1, shape.groups, shape.H)

        def output(pre: Tensor) -> Tensor:
            states = workload.h0[None, None]  # [1 state, 1 step, B, heads, H]
            weights = workload.weight_hh[None], bias  # of the single gate
            return flashrnn(pre.unsqueeze(2), *weights, states, config=config)[0][0]

        return make_call(workload.case.step, output, [workload.weight_hh, workload.h0])
