"""Layers that conversion skips, with the reasons in its report and its log."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fastrnn
from fastrnn import (
    ConversionReport,
    FusedGRU,
    FusedLSTM,
    FusedRNN,
    FusedRNNCell,
    ReadoutRNN,
    conversion_report,
)


class UserRNN(nn.RNN):
    """A user's layer."""


class UserLSTM(nn.LSTM):
    """A user's layer."""


class UserCell(nn.RNNCellBase):
    """A user's cell, of another kind than torch's."""

    def __init__(self) -> None:
        super().__init__(3, 4, bias=True, num_chunks=2)


class UserFusedRNN(FusedRNN):
    """A user's layer, derived from FusedRNN."""


def replaced(layer):
    layer.forward = layer.forward  # as accelerate's hooks do
    return layer


SUBCLASS = "{} is a subclass of {} and may override forward: derive it from {} instead"
PROJECTED = "only nn.LSTM itself computes projections, and its proj_size is 2"
REPLACED = "its forward was replaced: call {} first"
HEADS = "it has 2 heads, and nn.RNN has no block-diagonal W_hh"


def left(model):
    """Return the reasons why `convert` skips layers, after checking that it changes none."""
    report = conversion_report(model)
    assert report.convertible == {}
    classes = [type(module) for module in model.modules()]
    assert fastrnn.convert(model) is model
    assert [type(module) for module in model.modules()] == classes
    assert conversion_report(model) == report
    return report.left


def test_projections_are_skipped():
    """No kernel computes them. A FusedLSTM with a projection calls nn.LSTM's forward."""
    assert left(nn.LSTM(3, 4, proj_size=2)) == {"": PROJECTED}
    theirs = fastrnn.revert(FusedLSTM(3, 4, proj_size=2))
    assert type(theirs) is nn.LSTM
    assert left(theirs) == {"": PROJECTED}


def test_other_recurrences_are_skipped():
    assert left(UserCell()) == {"": "fastrnn has no UserCell"}


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: UserRNN(3, 4), ("UserRNN", "RNN", "FusedRNN")),
        (lambda: UserLSTM(3, 4, proj_size=2), ("UserLSTM", "LSTM", "FusedLSTM")),
        (
            lambda: parametrizations.weight_norm(UserRNN(3, 4), "weight_hh_l0"),
            ("UserRNN", "RNN", "FusedRNN"),
        ),
    ],
    ids=["plain", "LSTM", "parametrized"],
)
def test_subclasses_are_skipped(make, names):
    assert left(make()) == {"": SUBCLASS.format(*names)}


def test_layers_with_a_replaced_forward_are_skipped():
    model = nn.Sequential(replaced(nn.RNN(3, 4)), nn.Linear(4, 4))
    assert left(model) == {"0": REPLACED.format("convert")}


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
@pytest.mark.parametrize("traced", [False, True])
def test_torchscript_modules_are_skipped(traced):
    model = nn.Sequential(nn.GRU(3, 4))
    x = torch.randn(5, 2, 3)
    compiled = torch.jit.trace(model, x) if traced else torch.jit.script(model)
    why = "it was compiled by TorchScript: convert the model it was compiled from"
    assert left(nn.Sequential(compiled)) == {"0.0": why}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
def test_quantized_layers_are_skipped():
    float_model = nn.Sequential(nn.RNNCell(3, 4), nn.LSTM(3, 4), nn.GRU(3, 4))
    model = torch.ao.quantization.quantize_dynamic(float_model, {nn.RNNCell, nn.LSTM, nn.GRU})
    why = "it is quantized, and fastrnn computes in floating point"
    assert left(model) == {"0": why, "1": why, "2": why}


def test_layers_that_revert_skips():
    model = nn.ModuleDict(
        {
            "heads": FusedRNN(3, 4, num_heads=2),
            "gated": FusedGRU(3, 4, num_heads=2),
            "learned": FusedLSTM(3, 4, learned_h0=True),
            "leaky": FusedRNN(3, 4, leak=0.1),
            "subclass": UserFusedRNN(3, 4),
            "replaced": replaced(FusedRNN(3, 4)),
            "readout": ReadoutRNN(3, 4, 5),
            "rnn": nn.RNN(3, 4),
            "cell": FusedRNNCell(3, 4),
        }
    )
    classes = [type(module) for module in model.modules()]
    report = conversion_report(model)
    assert report.irreversible == {
        "heads": HEADS,
        "gated": "it has 2 heads, and nn.GRU has no block-diagonal W_hh",
        "learned": "its initial state is learned, and that of nn.LSTM is not",
        "leaky": "it has a leak, and nn.RNN has none",
        "subclass": SUBCLASS.format("UserFusedRNN", "FusedRNN", "RNN"),
        "replaced": REPLACED.format("revert"),
        "readout.rnn": "ReadoutRNN calls it with lengths, which nn.RNN does not take",
    }
    assert list(report.fused) == [*report.irreversible, "cell"]
    assert list(report.convertible) == ["rnn"]
    fastrnn.revert(model)
    assert [type(module) for module in model.modules()] == [*classes[:-1], nn.RNNCell]
    assert conversion_report(model).irreversible == report.irreversible


def test_a_report_is_readable_before_and_after():
    model = nn.ModuleDict({"encoder": nn.Sequential(nn.RNN(64, 128, 2))})
    model["lstm"] = nn.LSTM(3, 4, proj_size=2)
    model["decoder"] = model["encoder"]
    model["heads"] = FusedRNN(3, 4, num_heads=2)
    before = conversion_report(model)
    assert str(before) == (
        "ModuleDict: 1 fused, 2 convertible, 1 left\n"
        "  heads      fused: FusedRNN(3, 4, num_heads=2); revert leaves it: " + HEADS + "\n"
        "  encoder.0  convertible: RNN(64, 128, num_layers=2)\n"
        "  decoder.0  convertible: RNN(64, 128, num_layers=2), shared with encoder.0\n"
        "  lstm       left: " + PROJECTED
    )
    assert type(model["encoder"][0]) is nn.RNN
    after = conversion_report(fastrnn.convert(model))
    assert after.fused == {
        "encoder.0": "FusedRNN(64, 128, num_layers=2)",
        "decoder.0": "FusedRNN(64, 128, num_layers=2), shared with encoder.0",
        "heads": "FusedRNN(3, 4, num_heads=2)",
    }
    assert (after.convertible, after.left) == ({}, before.left)
    assert conversion_report(fastrnn.revert(model)) == before
    assert str(conversion_report(nn.RNNCell(3, 4))) == (
        "RNNCell: 0 fused, 1 convertible, 0 left\n  (the model)  convertible: RNNCell(3, 4)"
    )
    assert str(conversion_report(nn.Linear(3, 4))) == "No recurrent layers in this Linear."


def test_converting_twice_changes_nothing():
    rnn, x = fastrnn.convert(nn.RNN(3, 4)), torch.randn(5, 2, 3)
    expected = rnn(x)
    before = vars(rnn).copy()
    assert fastrnn.convert(rnn) is rnn
    assert type(rnn) is FusedRNN
    assert vars(rnn) == before
    assert torch.equal(rnn(x)[0], expected[0])


def test_log_names_converted_layers_and_warns_of_skipped_ones(caplog):
    model = nn.Sequential(
        nn.RNN(3, 4), nn.Linear(4, 3), nn.LSTMCell(3, 4), nn.LSTM(4, 4, proj_size=2)
    )
    heads = nn.Sequential(FusedRNN(3, 4, num_heads=2))
    with caplog.at_level(logging.INFO, logger="fastrnn"):
        fastrnn.convert(model)
        fastrnn.revert(heads)
        fastrnn.convert(nn.RNN(3, 4))
    assert caplog.record_tuples == [
        ("fastrnn", logging.INFO, "fastrnn.convert: 0 is now FusedRNN, 2 is now FusedLSTMCell"),
        ("fastrnn", logging.WARNING, "fastrnn.convert: 3 was left: " + PROJECTED),
        ("fastrnn", logging.INFO, "fastrnn.revert: nothing to change"),
        ("fastrnn", logging.WARNING, "fastrnn.revert: 0 was left: " + HEADS),
        ("fastrnn", logging.INFO, "fastrnn.convert: (the model) is now FusedRNN"),
    ]


@pytest.mark.parametrize(
    ("given", "what"), [({}, "dict"), (nn.RNN, "the class RNN"), (None, "NoneType")]
)
@pytest.mark.parametrize("function", [fastrnn.convert, fastrnn.revert, conversion_report])
def test_arguments_other_than_modules_raise(function, given, what):
    with pytest.raises(ValueError, match=f"{function.__name__} takes .* got {what}: pass the mod"):
        function(given)


def test_the_old_name_of_the_report_warns():
    with pytest.warns(DeprecationWarning, match="use fastrnn.ConversionReport"):
        assert fastrnn.Conversion is ConversionReport
    with pytest.raises(AttributeError, match="module 'fastrnn' has no attribute 'nonsense'"):
        _ = fastrnn.nonsense
