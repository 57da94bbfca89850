"""Export of FusedRNN with dynamic sizes: torch.export, AOTInductor and ONNX.

torch.export, and so torch's ONNX exporter, fixes the number of steps of an nn.RNN to the example's.
"""

import io
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn.utils.rnn import pack_sequence

from fastrnn import FusedRNN, ReadoutRNN
from fastrnn.export import decompositions, to_onnx
from fastrnn.ops import onnx as nodes
from fastrnn.ops.options import Options
from fastrnn.ops.ragged import Ragged

from .utils.nn_rnn_parity import FORWARD_EPS, assert_near, assert_same, gradients, paired_layers

SIZES = [(1, 1), (1, 4), (2, 3), (3, 1), (9, 5)]
STEPS, BATCH = Dim("steps"), Dim("batch")


def arguments(layer, steps, batch, dtype=torch.float64):
    """Return input, hx and lengths, which may be 0 or exceed the number of steps."""
    x = torch.randn(steps, batch, layer.input_size, dtype=dtype)
    states = layer.num_layers * (2 if layer.bidirectional else 1)
    hx = torch.randn(states, batch, layer.hidden_size, dtype=dtype)
    lengths = torch.randint(0, steps + 2, (batch,))
    return x.transpose(0, 1) if layer.batch_first else x, hx, lengths


def shapes(layer):
    """Return the dynamic dimensions of `arguments`."""
    first, second = (BATCH, STEPS) if layer.batch_first else (STEPS, BATCH)
    return {"input": {0: first, 1: second}, "hx": {1: BATCH}, "lengths": {0: BATCH}}


def exported(layer, strict=False):
    x, hx, lengths = arguments(layer, 6, 3)
    return export(layer, (x, hx), {"lengths": lengths}, dynamic_shapes=shapes(layer), strict=strict)


def assert_serves_all_sizes(program, layer):
    run = program.module()
    for size in SIZES:
        x, hx, lengths = arguments(layer, *size)
        assert_same(run(x, hx, lengths=lengths), layer(x, hx, lengths=lengths))


class Tagger(nn.Module):
    """A model that combines our layers with others."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = FusedRNN(6, 5, 2, "relu", bidirectional=True, batch_first=True, dropout=0.3)
        self.readout = ReadoutRNN(10, 4, 3, batch_first=True, bias=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        hidden, last = self.rnn(self.embedding(tokens), lengths=lengths)
        logits, _ = self.readout(hidden.softmax(-1), lengths=lengths)
        return {"logits": logits, "last": last, "tags": logits.argmax(-1)}

    @staticmethod
    def arguments(batch: int, steps: int) -> tuple[Tensor, Tensor]:
        return torch.randint(0, 11, (batch, steps)), torch.randint(1, steps + 1, (batch,))


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kwargs", [{}, {"num_layers": 2, "bidirectional": True}])
def test_one_program_serves_every_number_of_steps_and_rows(kwargs, strict):
    layer = FusedRNN(4, 5, batch_first=bool(kwargs), dtype=torch.float64, **kwargs)
    program = exported(layer, strict)
    assert len(program.range_constraints) == 2
    assert all(r.lower <= 1 and r.upper > 10**6 for r in program.range_constraints.values())
    for each in (program, program.run_decompositions()):
        assert_serves_all_sizes(each, layer)


def test_nn_rnn_exports_no_dynamic_length():
    """Motivates the test above: nn.RNN fixes the number of steps."""
    with pytest.raises(torch._dynamo.exc.UserError, match=r"specialized it to be a constant \(6\)"):
        export(nn.RNN(4, 5), (torch.randn(6, 3, 4),), dynamic_shapes=({0: STEPS, 1: BATCH},))


def test_saved_program_matches_the_layer():
    layer = FusedRNN(4, 5, 2, "relu", dtype=torch.float64).eval()
    program = exported(layer)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    names = [str(node.target) for node in loaded.graph.nodes]
    assert names.count("fastrnn.recurrence.default") == 2
    assert_serves_all_sizes(loaded, layer)


def test_a_program_has_the_gradients_of_the_layer():
    layer = FusedRNN(4, 5, bidirectional=True, dtype=torch.float64)
    run = exported(layer).module()
    for size in SIZES:
        x, hx, lengths = arguments(layer, *size)
        leaves = [x.requires_grad_(), hx.requires_grad_()]
        actual = gradients(run(x, hx, lengths=lengths), [*leaves, *run.parameters()])
        expected = gradients(layer(x, hx, lengths=lengths), [*leaves, *layer.parameters()])
        assert_same(actual, expected)


def test_a_model_of_many_layers():
    model = Tagger().double().eval()
    dynamic = {"tokens": {0: BATCH, 1: STEPS}, "lengths": {0: BATCH}}
    run = export(model, Tagger.arguments(3, 6), dynamic_shapes=dynamic).module()
    for steps, batch in SIZES:
        given = Tagger.arguments(batch, steps)
        assert_same(run(*given), model(*given))


def test_data_dependent_number_of_steps():
    class Trimmed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = FusedRNN(4, 5, dtype=torch.float64)

        def forward(self, input: Tensor, lengths: Tensor) -> Tensor:
            return self.rnn(input[: lengths.max().item()], lengths=lengths)[0]

    model = Trimmed()
    dynamic = {"input": {0: STEPS, 1: BATCH}, "lengths": {0: BATCH}}
    given = torch.randn(6, 3, 4, dtype=torch.float64), torch.tensor([2, 4, 1])
    run = export(model, given, dynamic_shapes=dynamic).module()
    for lengths in (given[1], torch.tensor([1, 1, 1]), torch.tensor([6, 2, 2])):
        assert_same(run(given[0], lengths), model(given[0], lengths))


def test_one_step_is_exported_as_one_step():
    """The number of steps is the example's unless dynamic_shapes says otherwise."""
    layer = FusedRNN(4, 5, dtype=torch.float64)
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    run = export(layer, (x,), dynamic_shapes=({1: BATCH},)).module()
    x = torch.randn(1, 7, 4, dtype=torch.float64)
    assert_same(run(x), layer(x))


LOADED = """
import sys, torch
if "fastrnn" in sys.argv:
    import fastrnn
x, hx, lengths = torch.load(sys.argv[2])
try:
    output, _ = torch._inductor.aoti_load_package(sys.argv[1])(x, hx, lengths=lengths)
    print(tuple(output.shape))
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_aot_inductor_compiles_a_program_for_all_sizes(tmp_path):
    layer = FusedRNN(4, 5, bidirectional=True, dtype=torch.float64).eval()
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            exported(layer), package_path=str(tmp_path / "rnn.pt2")
        )
    run = torch._inductor.aoti_load_package(path)
    for size in SIZES:
        x, hx, lengths = arguments(layer, *size)
        assert_same(tuple(run(x, hx, lengths=lengths)), layer(x, hx, lengths=lengths))
    torch.save(arguments(layer, 7, 2), tmp_path / "given.pt")
    for name, expected in (("fastrnn", "(7, 2, 10)"), ("-", "Could not find schema for fastrnn::")):
        command = [sys.executable, "-c", LOADED, path, str(tmp_path / "given.pt"), name]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in process.stdout


def need_onnx():
    """Return onnx and onnxruntime. The exporter also needs onnxscript."""
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")


def operators(path):
    """Return the operators of a file, in which only RNN nodes may compute a recurrence."""
    onnx, _ = need_onnx()
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert not {"Loop", "Scan", "If", "Tanh", "Relu"} & set(kinds)
    return kinds


def run_onnx(path, *given):
    _, onnxruntime = need_onnx()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), given, strict=True)}
    return [torch.as_tensor(each) for each in session.run(None, feed)]


def assert_onnx_matches(path, layer, with_lengths=True):
    """Compare a file at all sizes with a float64 layer that was not exported itself."""
    exact = FusedRNN(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        layer.nonlinearity,
        layer.bias,
        layer.batch_first,
        bidirectional=layer.bidirectional,
        dtype=torch.float64,
    )
    exact.load_state_dict(layer.state_dict())
    for size in SIZES:
        x, hx, lengths = arguments(layer, *size, dtype=torch.float32)
        given = (x, hx, lengths) if with_lengths else (x,)
        states = (hx.double(),) if with_lengths else ()
        expected = exact(x.double(), *states, lengths=lengths if with_lengths else None)
        for actual, truth in zip(run_onnx(path, *given), expected, strict=True):
            assert_near(actual, truth, FORWARD_EPS * layer.num_layers)


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
    {"num_layers": 2, "bidirectional": True, "nonlinearity": "relu"},
    pytest.param({"num_layers": 3, "batch_first": True, "bias": False}, marks=pytest.mark.slow),
    pytest.param({"bidirectional": True, "batch_first": True}, marks=pytest.mark.slow),
    pytest.param({"nonlinearity": "relu", "dropout": 0.5, "num_layers": 2}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kwargs", LAYERS)
def test_onnx_has_a_node_for_each_layer(kwargs, tmp_path):
    """The inputs include states, and lengths that may be 0 or exceed the number of steps."""
    need_onnx()
    layer, _ = paired_layers(4, 5, **kwargs)
    x, hx, lengths = arguments(layer, 6, 3, torch.float32)
    path = to_onnx(
        layer,
        (x, hx),
        tmp_path / "rnn.onnx",
        kwargs={"lengths": lengths},
        dynamic_shapes=shapes(layer),
    )
    assert operators(path).count("RNN") == layer.num_layers
    assert "MatMul" not in operators(path)
    onnx, _ = need_onnx()
    inputs = onnx.load(str(path)).graph.input
    names = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in inputs]
    first = ["batch", "steps"] if layer.batch_first else ["steps", "batch"]
    assert names == [[*first, 4], [hx.shape[0], "batch", 5], ["batch"]]
    assert_onnx_matches(path, layer)


@pytest.mark.slow
def test_onnx_of_a_model_of_many_layers(tmp_path):
    need_onnx()
    model = Tagger()
    path = to_onnx(model, Tagger.arguments(3, 6), tmp_path / "tagger.onnx")
    assert operators(path).count("RNN") == 3
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
def test_onnx_by_torchs_own_exporter(tmp_path):
    """torch.onnx.export writes RNN nodes too. float16 and single sequences are supported."""
    need_onnx()
    layer, _ = paired_layers(4, 5, 2, bidirectional=True)
    x, _, _ = arguments(layer, 6, 3, torch.float32)
    dynamic = {"input": {0: "steps", 1: "batch"}}
    path = tmp_path / "rnn.onnx"
    torch.onnx.export(layer.eval(), (x,), path, dynamic_shapes=dynamic, dynamo=True, verbose=False)
    assert operators(path).count("RNN") == 2
    assert_onnx_matches(path, layer, with_lengths=False)
    half = FusedRNN(4, 5, dtype=torch.float16)
    path = to_onnx(half, torch.randn(6, 4).half(), path)
    for actual, truth in zip(run_onnx(path, x[:, 0].half()), half(x[:, 0].half()), strict=True):
        assert_near(actual, truth.double(), 2 * FORWARD_EPS)


@pytest.mark.slow
def test_onnx_of_nn_rnn_is_unrolled_over_the_steps_of_the_example():
    """Motivates the tests above."""
    need_onnx()
    theirs, given = nn.RNN(4, 5).eval(), (torch.randn(6, 3, 4),)
    options = {"dynamo": True, "verbose": False}
    with pytest.raises(torch.onnx.errors.OnnxExporterError):
        torch.onnx.export(theirs, given, dynamic_shapes=({0: "steps", 1: "batch"},), **options)
    graph = torch.onnx.export(theirs, given, **options).model.graph
    kinds = [node.op_type for node in graph]
    assert "RNN" not in kinds
    assert kinds.count("Tanh") == 6


def test_onnx_keeps_no_file_that_fails_verification(tmp_path, monkeypatch):
    """A file with wrong results raises, and an existing file is kept."""
    need_onnx()
    path = tmp_path / "rnn.onnx"
    path.write_text("previous")
    monkeypatch.setitem(nodes._ACTIVATIONS, "tanh", "Affine")
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
    with pytest.raises(ValueError, match="no tensor"):
        to_onnx(layer, (), path)
    options = Options("tanh", True, 1, 0.0, False, False)
    resets = Ragged(resets=torch.zeros(6, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="not support resets"):
        nodes.rnn(x, None, [], resets, options)
    with pytest.raises(ValueError, match="lengths="):
        nodes.rnn(x, None, [], Ragged(offsets=torch.zeros(6, dtype=torch.int64)), options)
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


@pytest.mark.parametrize(
    ("kwargs", "given"),
    [
        ({"num_layers": 2, "bidirectional": True}, {}),
        ({"num_heads": 2, "nonlinearity": "relu"}, {}),
        ({"bidirectional": True}, {"lengths": torch.tensor([2, 6, 0])}),
        ({"learned_h0": True}, {"resets": torch.arange(18).reshape(6, 3) % 4 == 0}),
    ],
)
def test_decompositions_leave_only_torchs_operators(kwargs, given):
    layer = FusedRNN(4, 6, dtype=torch.float64, **kwargs)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    program = export(layer, (x,), given).run_decompositions(decompositions())
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert not any("fastrnn" in target for target in targets)
    if not given:
        assert sum("rnn_" in target for target in targets) == (2 if layer.num_heads == 2 else 4)
    assert_same(program.module()(x, **given), layer(x, **given))


def test_decompositions_need_a_fixed_number_of_steps():
    layer = FusedRNN(4, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="fixed number of steps"):
        exported(layer).run_decompositions(decompositions())
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    program = export(layer, (x,), dynamic_shapes={"input": {1: BATCH}})
    run = program.run_decompositions(decompositions()).module()
    for batch in (1, 2, 7):
        x = torch.randn(6, batch, 4, dtype=torch.float64)
        assert_same(run(x), layer(x))


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_converts_programs_and_modules():
    """Run in a separate process, so that its threads and telemetry do not affect other tests."""
    cases = Path(__file__).parent / "utils" / "openvino_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
