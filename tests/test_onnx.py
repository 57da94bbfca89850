"""ONNX files of layers and models, with dynamic sizes and one recurrent node per layer."""

import copy
import io
import os
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from fastrnn import FusedGRU, FusedLSTM, FusedRNN
from fastrnn.export import to_onnx
from fastrnn.ops import onnx as nodes
from fastrnn.ops.options import Options
from fastrnn.ops.ragged import Ragged

from .test_export import SIZES, Tagger, arguments, shapes
from .utils.nn_rnn_parity import (
    FORWARD_EPS,
    assert_near,
    each_state,
    paired_layers,
    rnn_and_lstm,
    tensors,
)


def need_onnx():
    """Return onnx and onnxruntime. The exporter also needs onnxscript."""
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")


def operators(path):
    """Return the operators of a file, in which only such nodes may compute a recurrence."""
    onnx, _ = need_onnx()
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert not {"Loop", "Scan", "If", "Tanh", "Relu", "Sigmoid"} & set(kinds)
    return kinds


def run_onnx(path, *given):
    _, onnxruntime = need_onnx()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), given, strict=True)}
    return [torch.as_tensor(each) for each in session.run(None, feed)]


def assert_onnx_matches(path, layer, with_lengths=True):
    """Compare a file at all sizes with a float64 layer that was not exported itself."""
    exact = copy.deepcopy(layer).double().eval()
    for size in SIZES:
        x, hx, lengths = arguments(layer, *size, dtype=torch.float32)
        given = (x, *tensors(hx), lengths) if with_lengths else (x,)
        states = (each_state(Tensor.double, hx),) if with_lengths else ()
        expected = tensors(exact(x.double(), *states, lengths=lengths if with_lengths else None))
        for actual, truth in zip(run_onnx(path, *given), expected, strict=True):
            assert_near(actual, truth, FORWARD_EPS * layer.num_layers)


@pytest.mark.slow
def test_onnx_of_an_example_with_one_step_and_one_row(tmp_path):
    """No size of the example becomes a constant, even if it is 1."""
    need_onnx()
    layer, _ = paired_layers(4, 5)
    path = to_onnx(layer, torch.randn(1, 1, 4), tmp_path / "new" / "rnn.onnx")
    assert [each.name for each in path.parent.iterdir()] == ["rnn.onnx"]
    assert operators(path).count("RNN") == 1
    assert "MatMul" not in operators(path)
    assert_onnx_matches(path, layer, with_lengths=False)
    assert layer.training


LAYERS = [
    (FusedRNN, {"num_layers": 2, "bidirectional": True, "nonlinearity": "relu"}),
    (FusedLSTM, {"num_layers": 2, "bidirectional": True}),
    pytest.param(*(FusedGRU, {"batch_first": True}), marks=pytest.mark.exhaustive),
    pytest.param(
        *(FusedRNN, {"num_layers": 3, "batch_first": True, "bias": False}),
        marks=pytest.mark.exhaustive,
    ),
    pytest.param(
        *(FusedLSTM, {"bidirectional": True, "batch_first": True}), marks=pytest.mark.exhaustive
    ),
    pytest.param(*(FusedGRU, {"dropout": 0.5, "num_layers": 2}), marks=pytest.mark.exhaustive),
]


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "kwargs"), LAYERS)
def test_onnx_has_a_node_for_each_layer(ours, kwargs, tmp_path):
    """The inputs include states, and lengths that may be 0 or exceed the number of steps."""
    need_onnx()
    layer, _ = paired_layers(4, 5, ours=ours, **kwargs)
    x, hx, lengths = arguments(layer, 6, 3, torch.float32)
    path = to_onnx(
        layer,
        (x, hx),
        tmp_path / "rnn.onnx",
        kwargs={"lengths": lengths},
        dynamic_shapes=shapes(layer),
    )
    kind = ours.__name__.removeprefix("Fused")
    assert operators(path).count(kind) == layer.num_layers
    assert "MatMul" not in operators(path)
    onnx, _ = need_onnx()
    inputs = onnx.load(str(path)).graph.input
    names = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in inputs]
    first = ["batch", "steps"] if layer.batch_first else ["steps", "batch"]
    states = [[len(state), "batch", 5] for state in tensors(hx)]
    assert names == [[*first, 4], *states, ["batch"]]
    assert_onnx_matches(path, layer)


@pytest.mark.slow
def test_onnx_of_a_model_of_many_layers(tmp_path):
    need_onnx()
    model = Tagger()
    path = to_onnx(model, Tagger.arguments(3, 6), tmp_path / "tagger.onnx")
    kinds = operators(path)
    assert [kinds.count(kind) for kind in ("RNN", "GRU", "LSTM")] == [2, 1, 1]
    exact = Tagger().double().eval()
    exact.load_state_dict(model.state_dict())
    for steps, batch in SIZES:
        given = Tagger.arguments(batch, steps)
        for actual, truth in zip(run_onnx(path, *given), exact(*given).values(), strict=True):
            if actual.is_floating_point():
                assert_near(actual, truth, 4 * FORWARD_EPS)
            else:
                assert torch.equal(actual, truth)


@pytest.mark.slow
@rnn_and_lstm
def test_onnx_by_torchs_own_exporter(tmp_path, ours):
    """torch.onnx.export writes such nodes too. float16 and single sequences are supported."""
    need_onnx()
    layer, _ = paired_layers(4, 5, 2, ours=ours, bidirectional=True)
    kind = layer.mode.partition("_")[0]
    x, _, _ = arguments(layer, 6, 3, torch.float32)
    dynamic = {"input": {0: "steps", 1: "batch"}}
    path = tmp_path / "rnn.onnx"
    torch.onnx.export(layer.eval(), (x,), path, dynamic_shapes=dynamic, dynamo=True, verbose=False)
    assert operators(path).count(kind) == 2
    assert_onnx_matches(path, layer, with_lengths=False)
    half = ours(4, 5, dtype=torch.float16)
    path = to_onnx(half, torch.randn(6, 4).half(), path)
    expected = tensors(half(x[:, 0].half()))
    for actual, truth in zip(run_onnx(path, x[:, 0].half()), expected, strict=True):
        assert_near(actual, truth.double(), 2 * FORWARD_EPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [nn.RNN, nn.LSTM, pytest.param(nn.GRU, marks=pytest.mark.exhaustive)]
)
def test_onnx_of_torchs_layers_serves_the_steps_of_the_example(kind, tmp_path):
    """Motivates the tests above. torch's exporter unrolls an nn.RNN; others become one node."""
    _, onnxruntime = need_onnx()
    theirs, given = kind(4, 5).eval(), (torch.randn(6, 3, 4),)
    options = {"dynamo": True, "verbose": False}
    path, dynamic = tmp_path / "theirs.onnx", ({0: "steps", 1: "batch"},)

    def export_and_run() -> None:
        torch.onnx.export(theirs, given, path, dynamic_shapes=dynamic, **options)
        run_onnx(path, torch.randn(9, 3, 4))

    # Some sizes of the example raise at the export, others at a call with another length.
    fail = onnxruntime.capi.onnxruntime_pybind11_state.Fail
    with pytest.raises((torch.onnx.errors.OnnxExporterError, fail)):
        export_and_run()
    graph = torch.onnx.export(theirs, given, **options).model.graph
    kinds = [node.op_type for node in graph]
    assert kinds.count(kind.__name__) == (0 if kind is nn.RNN else 1)
    assert kinds.count("Tanh") == (6 if kind is nn.RNN else 0)


def test_onnx_keeps_no_file_that_fails_verification(tmp_path, monkeypatch):
    """A file with wrong results raises, and an existing file is kept."""
    need_onnx()
    path = tmp_path / "rnn.onnx"
    path.write_text("previous")
    monkeypatch.setitem(nodes._ACTIVATIONS, "RNN_TANH", "Affine")
    with pytest.raises(RuntimeError, match="the exported file and the module differ"):
        to_onnx(FusedRNN(4, 5), torch.randn(6, 3, 4), path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["previous"]


@pytest.mark.slow
def test_onnx_of_a_module_with_fixed_sizes_needs_dynamic_shapes(tmp_path):
    need_onnx()

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = FusedRNN(4, 5)

        def forward(self, input: Tensor) -> Tensor:
            return self.rnn(input.view(6, 3, 4))[0]

    with pytest.raises(ValueError, match="only inputs of the example's sizes"):
        to_onnx(Fixed(), torch.randn(6, 3, 4), tmp_path / "rnn.onnx")
    assert os.listdir(tmp_path) == []
    x = torch.randn(6, 3, 4)
    path = to_onnx(Fixed(), x, tmp_path / "rnn.onnx", dynamic_shapes={"input": None})
    assert run_onnx(path, x)[0].shape == (6, 3, 5)


def test_onnx_rejects_unsupported_modules(tmp_path):
    need_onnx()
    path, layer, x = tmp_path / "rnn.onnx", FusedRNN(4, 5), torch.randn(6, 3, 4)
    with pytest.raises(ValueError, match="pass padded input, and lengths="):
        to_onnx(layer, pack_sequence([torch.randn(3, 4)]), path)
    for dtype in (torch.bfloat16, torch.float64, torch.complex64):
        with pytest.raises(ValueError, match=rf"support RNN in {dtype}: .* float32 with .float()"):
            to_onnx(FusedRNN(4, 5, dtype=dtype), x.to(dtype), path)
    with pytest.raises(ValueError, match="opset_version must be 18 or later, got 16"):
        to_onnx(layer, x, path, opset_version=16)
    with pytest.raises(ValueError, match="no projection"):
        to_onnx(FusedLSTM(4, 5, proj_size=2), x, path)
    with pytest.raises(ValueError, match="no tensor"):
        to_onnx(layer, (), path)
    options = Options("RNN_TANH", True, 1, 0.0, False, False)
    resets = Ragged(resets=torch.zeros(6, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="not support resets"):
        nodes.run(x, None, [], resets, options)
    with pytest.raises(ValueError, match="lengths="):
        nodes.run(x, None, [], Ragged(offsets=torch.zeros(6, dtype=torch.int64)), options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_says_what_to_install(missing, monkeypatch, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else io)
    with pytest.raises(ImportError, match=rf"needs {missing}: pip install 'fastrnn\[onnx\]'"):
        to_onnx(FusedRNN(4, 5), torch.randn(6, 3, 4), tmp_path / "rnn.onnx")


def test_onnx_of_heads_is_block_diagonal():
    heads = torch.randn(3, 2, 2)
    assert torch.equal(nodes._block_diagonal(heads), torch.block_diag(*heads))
