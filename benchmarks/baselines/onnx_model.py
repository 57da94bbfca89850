"""A layer as an ONNX model, and what the libraries that run it have in common."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..precision import MODES
from ..shapes import Case
from ..workload import Inputs, Workload, row_lengths
from .base import Provider

#: The gates in the order of ONNX, by their places in torch's order: i, o, f, c and z, r, h.
GATES = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


class OnnxProvider(Provider):
    """A library that runs ONNX models, on the CPU and for inference."""

    devices = ("cpu",)
    keeps_memory = True
    packages: tuple[str, ...]

    def unavailable_reason(self, device: str) -> str | None:
        missing = [name for name in ("onnx", *self.packages) if find_spec(name) is None]
        return f"{missing[0]} is not installed" if missing else None

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.step != "inference":
            return f"{self.name} supports only inference"
        if case.scope != "layer":
            return "its operators include the input projection"
        if case.mode != "float32":
            return "its operators support only float32"
        return None

    def tensors(self, results: Any, workload: Workload) -> list[Tensor]:
        out = torch.from_numpy(results[0]).to(MODES[workload.case.mode].dtype)
        if workload.shape.packed:
            lengths = row_lengths(workload.steps, workload.shape.B)
            out = pack_padded_sequence(out, lengths).data
        return [out]


def padded(inputs: Inputs) -> Any:
    """Return x as an array [T, B, I] in float32."""
    x = inputs.x
    data = pad_packed_sequence(x)[0] if isinstance(x, PackedSequence) else x
    return data.detach().float().numpy()


def model(workload: Workload) -> bytes:
    """Return a model from x [T, B, I] to out [T, B, D·H], with one operator per layer."""
    from onnx import TensorProto, helper, numpy_helper

    shape, steps = workload.shape, workload.steps
    nodes, constants = [], []

    def constant(name: str, value: Tensor) -> str:
        constants.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name

    flat = constant("flat", torch.tensor([0, 0, -1]))
    lengths = ""
    if shape.packed:
        lengths = constant("lengths", row_lengths(steps, shape.B).int())
    at = "x"
    for layer, weights in enumerate(_by_layer(workload)):
        names = [
            constant(f"{name}_{layer}", value)
            for name, value in zip(("weight_ih", "weight_hh", "bias"), weights, strict=True)
        ]
        nodes += [
            helper.make_node(
                shape.of_cell.layer,
                [at, *names, lengths],
                [f"y_{layer}"],
                hidden_size=shape.H,
                direction="bidirectional" if shape.directions == 2 else "forward",
                **_attributes(workload),
            ),
            # [T, D, B, H] -> [T, B, D·H]
            helper.make_node("Transpose", [f"y_{layer}"], [f"z_{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"z_{layer}", flat], [f"out_{layer}"]),
        ]
        at = f"out_{layer}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, shape.B, shape.I])
    out = helper.make_tensor_value_info(at, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, shape.cell, [x], [out], constants)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def _attributes(workload: Workload) -> dict[str, Any]:
    """Return the attributes of an operator that only one cell has."""
    shape = workload.shape
    if shape.cell == "rnn":
        return {"activations": [shape.activation.capitalize()] * shape.directions}
    # torch multiplies r with W_hn h + b_hn, after the product.
    return {"linear_before_reset": 1} if shape.cell == "gru" else {}


def _by_layer(workload: Workload) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return weight_ih [D, K·H, I], weight_hh [D, K·H, H] and biases [D, 2·K·H] by layer."""
    shape, layers = workload.shape, []

    def reordered(weight: Tensor) -> Tensor:
        gates = weight.detach().float().chunk(shape.of_cell.gates)
        return torch.cat([gates[index] for index in GATES[shape.cell]])

    for layer in range(shape.layers):
        suffixes = [f"l{layer}", f"l{layer}_reverse"][: shape.directions]
        stacked = [
            torch.stack(
                [reordered(getattr(workload.layer, f"{name}_{suffix}")) for suffix in suffixes]
            )
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        layers.append((*stacked[:2], torch.cat(stacked[2:], dim=1)))
    return layers
