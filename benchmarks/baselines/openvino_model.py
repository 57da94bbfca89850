"""OpenVINO, which runs the ONNX model of a layer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from ..shapes import Case
from ..workload import Call, Inputs, Workload
from .onnx_model import OnnxProvider, model, padded

#: The precisions of its products that are comparable with a mode of ours. Inputs and outputs are
#: in float32.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(OnnxProvider):
    """OpenVINO with torch's number of threads, compiled for the sizes of the case."""

    name = "openvino"
    packages = ("openvino",)

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.mode == "bfloat16" and "BF16" in _capabilities():
            return super().unsupported_reason(replace(case, mode="float32"), device)
        return super().unsupported_reason(case, device)

    def prepare(self, workload: Workload) -> Call:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": PRECISIONS[workload.case.mode],
        }
        core = _core()
        compiled = core.compile_model(core.read_model(model(workload)), "CPU", options)
        request = compiled.create_infer_request()
        tensors = workload.converted(
            lambda inputs: openvino.Tensor(padded(inputs), shared_memory=True)
        )

        def call(inputs: Inputs) -> Any:
            request.set_input_tensor(tensors(inputs))
            request.infer()
            return [request.get_output_tensor().data]

        return call


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


@cache
def _capabilities() -> list[str]:
    """Return the precisions that this processor computes in, among others."""
    return _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
