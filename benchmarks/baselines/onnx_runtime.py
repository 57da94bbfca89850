"""ONNX Runtime's RNN operator."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ..shapes import Case
from ..workload import Call, Inputs, Workload
from .base import Provider


class OnnxRuntime(Provider):
    """The RNN operator on the CPU with torch's number of threads, for inference."""

    name = "onnxruntime"
    devices = ("cpu",)
    keeps_memory = True

    def unavailable_reason(self, device: str) -> str | None:
        missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
        return f"{missing[0]} is not installed" if missing else None

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.step != "inference":
            return "ONNX Runtime supports only inference"
        if case.scope != "layer":
            return "its operator includes the input projection"
        if case.mode != "float32":
            return "its operator supports only float32"
        if case.shape.packed:
            return "it does not support packed rows"
        return None

    def prepare(self, workload: Workload) -> Call:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # By default its threads spin after a call, which slows down the next turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(
            _model(workload), options, providers=["CPUExecutionProvider"]
        )

        def call(inputs: Inputs) -> list[Tensor]:
            (out,) = session.run(None, {"x": inputs.leaf.numpy()})
            return [torch.from_numpy(out)]

        return call


def _model(workload: Workload) -> bytes:
    """Return a model from x [T, B, I] to out [T, B, D·H], with one RNN node per layer."""
    from onnx import TensorProto, helper, numpy_helper

    shape = workload.shape
    directions = shape.directions
    nodes, constants = [], []

    def constant(name: str, value: Tensor) -> str:
        constants.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name

    flat = constant("flat", torch.tensor([0, 0, -1]))
    at = "x"
    for layer, weights in enumerate(_by_layer(workload)):
        weight_ih, weight_hh, bias = (
            constant(f"{name}_{layer}", value)
            for name, value in zip(("weight_ih", "weight_hh", "bias"), weights, strict=True)
        )
        nodes += [
            helper.make_node(
                "RNN",
                [at, weight_ih, weight_hh, bias],
                [f"y_{layer}"],
                hidden_size=shape.H,
                direction="bidirectional" if directions == 2 else "forward",
                activations=[shape.activation.capitalize()] * directions,
            ),
            # [T, D, B, H] -> [T, B, D·H]
            helper.make_node("Transpose", [f"y_{layer}"], [f"z_{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"z_{layer}", flat], [f"out_{layer}"]),
        ]
        at = f"out_{layer}"
    graph = helper.make_graph(
        nodes,
        "rnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, shape.I])],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, None)],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def _by_layer(workload: Workload) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return weight_ih [D, H, I], weight_hh [D, H, H] and both biases [D, 2H] of each layer."""
    layers = []
    for layer in range(workload.shape.layers):
        suffixes = [f"l{layer}", f"l{layer}_reverse"][: workload.shape.directions]
        stacked = [
            torch.stack([getattr(workload.layer, f"{name}_{suffix}") for suffix in suffixes])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        layers.append((*stacked[:2], torch.cat(stacked[2:], dim=1)))
    return layers
