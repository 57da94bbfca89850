"""ONNX files of LSTM and GRU layers, with dynamic sizes and one node per layer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastrnn import functional
from fastrnn.export import to_onnx
from fastrnn.ops import onnx as nodes

from .test_export import BATCH, SIZES, STEPS
from .test_onnx import need_onnx, operators, run_onnx
from .utils.nn_rnn_parity import FORWARD_EPS, assert_near

LAYERS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU}


class Stack(nn.Module):
    """A stack of layers with several heads, whose parameters have nn.LSTM's or nn.GRU's names."""

    def __init__(self, mode: str, heads: int, **options: Any) -> None:
        super().__init__()
        self.mode, self.options = mode, options
        self.weights = nn.ParameterList(LAYERS[mode](4, 6, **options).parameters())
        if heads > 1:
            for i in range(1, len(self.weights), 4 if options.get("bias", True) else 2):
                rows, hidden = self.weights[i].shape
                blocks = torch.randn(heads, rows // heads, hidden // heads) / hidden**0.5
                self.weights[i] = nn.Parameter(blocks)

    def forward(self, input: Tensor, lengths: Tensor, *states: Tensor) -> Any:
        given = self.options | {"lengths": lengths}
        if self.mode == "GRU":
            return functional.gru(input, states[0], list(self.weights), **given)
        return functional.lstm(input, (states[0], states[1]), list(self.weights), **given)

    def arguments(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """Return input, lengths, which may be 0 or exceed the number of steps, and the states."""
        directions = 2 if self.options.get("bidirectional") else 1
        shape = directions * self.options.get("num_layers", 1), batch, 6
        states = [torch.randn(shape) for _ in range(1 if self.mode == "GRU" else 2)]
        return torch.randn(steps, batch, 4), torch.randint(0, steps + 2, (batch,)), *states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "options"),
    [
        (2, {"num_layers": 2, "bidirectional": True}),
        pytest.param(1, {"bias": False}, marks=pytest.mark.exhaustive),
        pytest.param(3, {"num_layers": 2, "dropout": 0.5}, marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("mode", LAYERS)
def test_onnx_has_a_node_for_each_layer(mode, heads, options, tmp_path):
    need_onnx()
    model = Stack(mode, heads, **options)
    example = model.arguments(6, 3)
    shapes = {
        "input": {0: STEPS, 1: BATCH},
        "lengths": {0: BATCH},
        "states": tuple({1: BATCH} for _ in example[2:]),
    }
    exact = Stack(mode, heads, **options).double()
    exact.load_state_dict(model.state_dict())
    path = to_onnx(model, example, tmp_path / "model.onnx", dynamic_shapes=shapes)
    assert operators(path).count(mode) == options.get("num_layers", 1)
    assert "MatMul" not in operators(path)
    for size in SIZES:
        x, lengths, *states = model.arguments(*size)
        expected = exact(x.double(), lengths, *(state.double() for state in states))
        truths = torch.utils._pytree.tree_leaves(expected)
        for actual, truth in zip(run_onnx(path, x, lengths, *states), truths, strict=True):
            assert_near(actual, truth, FORWARD_EPS * options.get("num_layers", 1))


def test_heads_are_block_diagonal_for_each_gate():
    heads, gates, size = 3, 4, 2
    weight = torch.randn(heads, gates * size, size)
    blocks = weight.reshape(heads, gates, size, size)
    expected = torch.cat([torch.block_diag(*blocks[:, k]) for k in range(gates)])
    assert torch.equal(nodes._block_diagonal(weight, gates), expected)
