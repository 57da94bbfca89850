"""Conversion of our layers by OpenVINO. test_export.py runs these cases in a separate process."""

import openvino
import pytest
import torch
from torch.export import export

from fastrnn import FusedGRU, FusedLSTM, FusedRNN
from fastrnn.export import decompositions

from .nn_rnn_parity import FORWARD_EPS, assert_near, tensors


def assert_openvino_matches(model, layer, x, **given):
    run = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = run([x.numpy(), *(value.numpy() for value in given.values())])
    expected = tensors(layer.double()(x.double(), **given))
    for actual, truth in zip(results.values(), expected, strict=True):
        assert_near(torch.from_numpy(actual), truth.detach(), FORWARD_EPS)


LENGTHS = {"lengths": torch.tensor([2, 6, 0])}


@pytest.mark.parametrize(
    ("ours", "kwargs", "given"),
    [
        (FusedRNN, {}, LENGTHS),
        (FusedLSTM, {"bidirectional": True}, {}),
        (FusedLSTM, {}, LENGTHS),
        (FusedGRU, {"bidirectional": True}, {}),
    ],
)
def test_openvino_converts_a_program(kwargs, given, ours):
    layer, x = ours(4, 6, num_layers=2, **kwargs), torch.randn(6, 3, 4)
    program = export(layer, (x,), given).run_decompositions(decompositions())
    assert_openvino_matches(openvino.convert_model(program), layer, x, **given)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("ours", [FusedRNN, FusedLSTM])
def test_openvino_converts_a_module_for_every_size(ours):
    layer = ours(4, 6, num_layers=2, bidirectional=True)
    model = openvino.convert_model(layer, example_input=torch.randn(6, 3, 4))
    assert_openvino_matches(model, layer, torch.randn(9, 2, 4))
