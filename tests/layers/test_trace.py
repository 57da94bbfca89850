"""torch.jit.trace and its users: ONNX by tracing, TensorBoard's graphs.

A trace records one path for all sizes. Where nn.RNN's own loop computes the same, the trace records
that loop and runs without fastrnn. Elsewhere it records our operators.
"""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fastrnn import FusedGRU, FusedLSTM, FusedRNN, ReadoutRNN

from ..utils.nn_rnn_parity import (
    FORWARD_EPS,
    LAYERS,
    assert_near,
    assert_same,
    every_cell,
    every_layer,
    options_for,
    random_hx,
    rnn_and_lstm,
    tensors,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # nn.RNN checks sizes too
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:::torch.onnx"),
]
I, H = 3, 4  # noqa: E741
SIZES = [(1, 3), (9, 2), (4, 1)]


class Call(nn.Module):
    """Call a layer with keyword arguments that a trace passes by position."""

    def __init__(self, layer: nn.Module, *names: str) -> None:
        super().__init__()
        self.layer, self.names = layer, names

    def forward(self, x: Tensor, *given: Any) -> tuple[Tensor, Any]:
        return self.layer(x, **dict(zip(self.names, given, strict=True)))


class Packed(nn.Module):
    def __init__(self, layer: nn.Module, enforce_sorted: bool) -> None:
        super().__init__()
        self.layer, self.enforce_sorted = layer, enforce_sorted

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=self.enforce_sorted)
        output, h_n = self.layer(packed)
        return pad_packed_sequence(output)[0], h_n


def arguments(steps: int, batch: int, *names: str, ours: Any = FusedRNN) -> list[Any]:
    drawn = {
        "hx": lambda: random_hx(ours(I, H, 2), batch),
        "lengths": lambda: torch.randint(0, steps + 1, (batch,)),
        "resets": lambda: torch.rand(steps, batch) < 0.3,
    }
    x = torch.randn(steps, batch, I, dtype=torch.float64)
    return [x, *(drawn[name]() for name in names)]


def traced(module: nn.Module, example: list[Any]) -> torch.jit.ScriptModule:
    """Trace the module with torch's own check, then save and load the trace."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, tuple(example)), file)
    file.seek(0)
    return torch.jit.load(file)


@rnn_and_lstm
@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({}, []),
        ({"num_layers": 2, "nonlinearity": "relu"}, ["hx"]),
        ({"bidirectional": True}, ["lengths"]),
        ({"num_layers": 2, "num_heads": 2}, ["hx", "resets"]),
        ({"learned_h0": True}, ["lengths", "resets"]),
    ],
)
def test_a_trace_serves_every_number_of_steps_and_rows(kwargs, names, steps, recording, ours):
    with torch.set_grad_enabled(recording):
        module = Call(ours(I, H, dtype=torch.float64, **options_for(ours, kwargs)), *names)
        trace = traced(module, arguments(steps, 3, *names, ours=ours))
        for size in SIZES:
            given = arguments(*size, *names, ours=ours)
            assert_same(trace(*given), module(*given))
    # The trace can be trained, whether or not autograd recorded the tracing.
    given = arguments(4, 2, *names, ours=ours)
    expected = torch.autograd.grad(module(*given)[0].sum(), list(module.parameters()))
    actual = torch.autograd.grad(trace(*given)[0].sum(), list(trace.parameters()))
    assert_same(actual, expected)


@rnn_and_lstm
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("kwargs", [{}, {"num_heads": 2}, {"learned_h0": True}])
def test_a_packed_trace_serves_every_number_of_steps_and_rows(kwargs, enforce_sorted, ours):
    module = Packed(ours(I, H, dtype=torch.float64, **kwargs), enforce_sorted)
    trace = traced(module, [*arguments(5, 3), torch.tensor([5, 3, 2])])
    lengths = torch.tensor([8, 7, 3, 2])
    if not enforce_sorted:
        lengths = lengths[[2, 0, 3, 1]]
    given = (*arguments(8, 4), lengths)
    assert_same(trace(*given), module(*given))


@rnn_and_lstm
@pytest.mark.parametrize("with_resets", [False, True])
def test_a_traced_step_serves_every_number_of_rows(with_resets, ours):
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = ours(I, H, 2, dtype=torch.float64)

        def forward(self, x: Tensor, hx: Any, resets: Tensor) -> tuple[Tensor, Any]:
            return self.layer.step(x, hx, resets=resets if with_resets else None)

    def example(batch: int) -> list[Any]:
        x, hx, resets = arguments(1, batch, "hx", "resets", ours=ours)
        return [x[0], hx, resets[0]]

    module = Step()
    trace = traced(module, example(3))
    given = example(5)
    assert_same(trace(*given), module(*given))


@every_layer
def test_trace_calls_only_torch_operators_where_nn_rnn_suffices(ours):
    layer = ours(I, H, 2)
    trace = torch.jit.trace(layer, torch.randn(5, 2, I))
    graph = str(trace.inlined_graph)
    assert f"aten::{layer.mode.lower()}" in graph
    assert "fastrnn::" not in graph


MODELS = [
    FusedRNN(I, H, 2, bidirectional=True),
    FusedRNN(I, H, batch_first=True, nonlinearity="relu"),
    FusedRNN(I, H, learned_h0=True),
    FusedLSTM(I, H, 2, bidirectional=True),
    FusedLSTM(I, H, learned_h0=True),
    FusedGRU(I, H, batch_first=True),
    ReadoutRNN(I, H, 2),
    ReadoutRNN(I, H, 2, cell="lstm", steps="last"),
    nn.Sequential(nn.Linear(I, I), FusedRNN(I, H)),
]


@pytest.mark.parametrize("model", MODELS)
def test_onnx_by_tracing_writes_recurrent_nodes(model):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    file = io.BytesIO()
    axes = {"x": {0: "steps", 1: "batch"}}
    example = (torch.randn(5, 3, I),)
    torch.onnx.export(
        model.eval(), example, file, dynamo=False, input_names=["x"], dynamic_axes=axes
    )
    nodes = [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    assert {"RNN", "LSTM", "GRU"} & set(nodes)
    session = onnxruntime.InferenceSession(file.getvalue())
    for steps, batch in SIZES:
        x = torch.randn(steps, batch, I)
        expected = tensors(model.double()(x.double()))
        for actual, truth in zip(session.run(None, {"x": x.numpy()}), expected, strict=True):
            assert_near(torch.from_numpy(actual), truth.detach(), FORWARD_EPS)
    model.float()


@rnn_and_lstm
@pytest.mark.parametrize(
    ("kwargs", "names"), [({}, ["lengths"]), ({}, ["resets"]), ({"num_heads": 2}, [])]
)
def test_onnx_by_tracing_names_to_onnx_for_unsupported_layers(kwargs, names, ours):
    module = Call(ours(I, H, dtype=torch.float64, **kwargs), *names)
    with pytest.raises(ValueError, match="to_onnx"):
        torch.onnx.export(module, tuple(arguments(5, 3, *names)), io.BytesIO(), dynamo=False)


@pytest.mark.parametrize("model", [*MODELS, *(ours(I, H, num_heads=2) for ours in LAYERS)])
def test_tensorboard_draws_the_graph(model, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        writer.add_graph(model, torch.randn(5, 3, I))
    assert any(file.stat().st_size > 0 for file in tmp_path.iterdir())


@every_cell
def test_a_traced_cell_serves_every_number_of_rows(ours):
    cell = ours(I, H, dtype=torch.float64)
    trace = traced(cell, [torch.randn(3, I, dtype=torch.float64)])
    x = torch.randn(5, I, dtype=torch.float64)
    assert_same(trace(x), cell(x))
