"""ONNX Runtime's operators RNN, LSTM and GRU."""

from __future__ import annotations

from typing import Any

import torch

from ..workload import Call, Inputs, Workload
from .onnx_model import OnnxProvider, model, padded


class OnnxRuntime(OnnxProvider):
    """ONNX Runtime with torch's number of threads."""

    name = "onnxruntime"
    packages = ("onnxruntime",)

    def prepare(self, workload: Workload) -> Call:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # By default its threads spin after a call, which slows down the next turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(
            model(workload), options, providers=["CPUExecutionProvider"]
        )
        arrays = workload.converted(padded)

        def call(inputs: Inputs) -> Any:
            return session.run(None, {"x": arrays(inputs)})

        return call
