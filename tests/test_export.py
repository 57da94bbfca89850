"""Export of layers with dynamic sizes: torch.export, AOTInductor and OpenVINO.

torch.export fixes the number of steps of torch's layers to the example's.
"""

import io
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from fastrnn import FusedGRU, FusedLSTM, FusedRNN, ReadoutRNN
from fastrnn.export import decompositions

from .utils.nn_rnn_parity import (
    assert_same,
    every_layer,
    gradients,
    random_hx,
    rnn_and_lstm,
    tensors,
)

SIZES = [(1, 1), (1, 4), (2, 3), (3, 1), (9, 5)]
STEPS, BATCH = Dim("steps"), Dim("batch")


def arguments(layer, steps, batch, dtype=torch.float64):
    """Return input, hx and lengths, which may be 0 or exceed the number of steps."""
    x = torch.randn(steps, batch, layer.input_size, dtype=dtype)
    lengths = torch.randint(0, steps + 2, (batch,))
    hx = random_hx(layer, batch, dtype=dtype)
    return x.transpose(0, 1) if layer.batch_first else x, hx, lengths


def shapes(layer):
    """Return the dynamic dimensions of `arguments`."""
    first, second = (BATCH, STEPS) if layer.batch_first else (STEPS, BATCH)
    states = ({1: BATCH}, {1: BATCH}) if layer.mode == "LSTM" else {1: BATCH}
    return {"input": {0: first, 1: second}, "hx": states, "lengths": {0: BATCH}}


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
        self.gru = FusedGRU(10, 8, batch_first=True, num_heads=2)
        self.readout = ReadoutRNN(8, 4, 3, batch_first=True, bias=False, cell="lstm")

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        hidden, last = self.rnn(self.embedding(tokens), lengths=lengths)
        hidden, _ = self.gru(hidden.softmax(-1), lengths=lengths)
        logits, _ = self.readout(hidden, lengths=lengths)
        return {"logits": logits, "last": last, "tags": logits.argmax(-1)}

    @staticmethod
    def arguments(batch: int, steps: int) -> tuple[Tensor, Tensor]:
        return torch.randint(0, 11, (batch, steps)), torch.randint(1, steps + 1, (batch,))


@pytest.mark.slow
@rnn_and_lstm
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kwargs", [{}, {"num_layers": 2, "bidirectional": True}])
def test_one_program_serves_every_number_of_steps_and_rows(kwargs, strict, ours):
    layer = ours(4, 5, batch_first=bool(kwargs), dtype=torch.float64, **kwargs)
    program = exported(layer, strict)
    assert len(program.range_constraints) == 2
    assert all(r.lower <= 1 and r.upper > 10**6 for r in program.range_constraints.values())
    for each in (program, program.run_decompositions()):
        assert_serves_all_sizes(each, layer)


@pytest.mark.parametrize("theirs", [nn.RNN, nn.LSTM, nn.GRU])
def test_torchs_layers_export_no_dynamic_length(theirs):
    """Motivates the test above: torch's layers fix the number of steps."""
    x, dynamic = torch.randn(6, 3, 4), ({0: STEPS, 1: BATCH},)
    with pytest.raises(torch._dynamo.exc.UserError, match=r"specialized it to be a constant \(6\)"):
        export(theirs(4, 5), (x,), dynamic_shapes=dynamic).run_decompositions()


@every_layer
def test_saved_program_matches_the_layer(ours):
    layer = ours(4, 5, 2, dtype=torch.float64).eval()
    program = exported(layer)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    names = [str(node.target) for node in loaded.graph.nodes]
    assert names.count("fastrnn.recurrence.default") == 2
    assert_serves_all_sizes(loaded, layer)


@rnn_and_lstm
def test_a_program_has_the_gradients_of_the_layer(ours):
    layer = ours(4, 5, bidirectional=True, dtype=torch.float64)
    run = exported(layer).module()
    for size in SIZES:
        x, hx, lengths = arguments(layer, *size)
        leaves = [tensor.requires_grad_() for tensor in (x, *tensors(hx))]
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


@rnn_and_lstm
def test_data_dependent_number_of_steps(ours):
    class Trimmed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = ours(4, 5, dtype=torch.float64)

        def forward(self, input: Tensor, lengths: Tensor) -> Tensor:
            return self.rnn(input[: lengths.max().item()], lengths=lengths)[0]

    model = Trimmed()
    dynamic = {"input": {0: STEPS, 1: BATCH}, "lengths": {0: BATCH}}
    given = torch.randn(6, 3, 4, dtype=torch.float64), torch.tensor([2, 4, 1])
    run = export(model, given, dynamic_shapes=dynamic).module()
    for lengths in (given[1], torch.tensor([1, 1, 1]), torch.tensor([6, 2, 2])):
        assert_same(run(given[0], lengths), model(given[0], lengths))


@rnn_and_lstm
def test_one_step_is_exported_as_one_step(ours):
    """The number of steps is the example's unless dynamic_shapes says otherwise."""
    layer = ours(4, 5, dtype=torch.float64)
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
@pytest.mark.parametrize(
    "ours",
    [
        pytest.param(FusedRNN, marks=pytest.mark.exhaustive),
        FusedLSTM,
        pytest.param(FusedGRU, marks=pytest.mark.exhaustive),
    ],
)
def test_aot_inductor_compiles_a_program_for_all_sizes(tmp_path, ours):
    layer = ours(4, 5, bidirectional=True, dtype=torch.float64).eval()
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            exported(layer),
            package_path=str(tmp_path / "rnn.pt2"),
            # To precompile headers takes longer than the one kernel.
            inductor_configs={"aot_inductor.precompile_headers": False},
        )
    run = torch._inductor.aoti_load_package(path)
    for size in SIZES:
        x, hx, lengths = arguments(layer, *size)
        actual = run(x, hx, lengths=lengths)
        assert_same(tensors(actual), tensors(layer(x, hx, lengths=lengths)))
    torch.save(arguments(layer, 7, 2), tmp_path / "given.pt")
    for name, expected in (("fastrnn", "(7, 2, 10)"), ("-", "Could not find schema for fastrnn::")):
        command = [sys.executable, "-c", LOADED, path, str(tmp_path / "given.pt"), name]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in process.stdout


@pytest.mark.slow
@every_layer
@pytest.mark.parametrize(
    ("kwargs", "given"),
    [
        ({"num_layers": 2, "bidirectional": True}, {}),
        pytest.param({"num_heads": 2}, {}, marks=pytest.mark.exhaustive),
        ({"bidirectional": True}, {"lengths": torch.tensor([2, 6, 0])}),
        ({"learned_h0": True}, {"resets": torch.arange(18).reshape(6, 3) % 4 == 0}),
    ],
)
def test_decompositions_leave_only_torchs_operators(kwargs, given, ours):
    layer = ours(4, 6, dtype=torch.float64, **kwargs)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    program = export(layer, (x,), given).run_decompositions(decompositions())
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert not any("fastrnn" in target for target in targets)
    if not given:
        kind = f"aten.{layer.mode.lower()}."
        assert sum(kind in target for target in targets) == (2 if layer.num_heads == 2 else 4)
    assert_same(program.module()(x, **given), layer(x, **given))


@pytest.mark.slow
@rnn_and_lstm
def test_decompositions_need_a_fixed_number_of_steps(ours):
    layer = ours(4, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="fixed number of steps"):
        exported(layer).run_decompositions(decompositions())
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    program = export(layer, (x,), dynamic_shapes={"input": {1: BATCH}})
    run = program.run_decompositions(decompositions()).module()
    for batch in (1, 2, 7):
        x = torch.randn(6, batch, 4, dtype=torch.float64)
        assert_same(run(x), layer(x))


@pytest.mark.exhaustive
@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_converts_programs_and_modules():
    """Run in a separate process, so that its threads and telemetry do not affect other tests."""
    cases = Path(__file__).parent / "utils" / "openvino_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
