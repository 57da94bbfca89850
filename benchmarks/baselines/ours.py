"""fastrnn, with each of its backends."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

import fastrnn
from fastrnn.functional import recurrence
from fastrnn.ops.backends import base as backends
from fastrnn.ops.backends import dispatch

from ..precision import MODES, precision
from ..shapes import Case
from ..workload import Call, Workload, layer_call, make_call
from .base import Provider


class Fastrnn(Provider):
    """FusedRNN, FusedLSTM or FusedGRU, or `functional.recurrence`, with one backend."""

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend
        self.name = "fastrnn" if backend == "auto" else f"fastrnn.{backend}"
        self.devices = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": ("cuda",)}.get(
            backend, self.devices
        )

    def unavailable_reason(self, device: str) -> str | None:
        if self.backend == "auto":
            reasons = [kernels.unavailable_reason() for kernels in dispatch.AUTO.get(device, ())]
            return None if None in reasons else f"no backend is available: {'; '.join(reasons)}"
        return dispatch.BACKENDS[self.backend].unavailable_reason()

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        shape = case.shape
        sizes = shape.T, shape.B, shape.groups * shape.directions, shape.H
        where = MODES[case.mode].dtype, torch.device(device)
        layer = shape.of_cell.layer
        if not hasattr(fastrnn, f"Fused{layer}"):
            return f"fastrnn has no Fused{layer}"
        mode = f"RNN_{shape.activation.upper()}" if shape.cell == "rnn" else layer
        call = backends.Call(mode, *sizes, *where)
        with precision(case.mode):
            if self.backend != "auto":
                return dispatch.BACKENDS[self.backend].unsupported_reason(call)
            kernels, reasons = dispatch.best_kernels(call)
        if kernels is not None:
            return None
        return f"auto uses no kernel of fastrnn: {'; '.join(reasons.values())}"

    def prepare(self, workload: Workload) -> Call:
        shape, step = workload.shape, workload.case.step
        if workload.case.scope == "layer":
            make = getattr(fastrnn, f"Fused{shape.of_cell.layer}")
            layer = make(**shape.layer_arguments).to(workload.device, workload.dtype)
            layer.load_state_dict(workload.layer.state_dict())
            return layer_call(layer, step)
        weights = [workload.weight_hh, workload.h0]
        return make_call(
            step, lambda pre: recurrence(pre, *weights, activation=shape.activation)[0], weights
        )

    def context(self) -> AbstractContextManager[object]:
        return fastrnn.use_backend(self.backend)
