"""What conversion leaves as it is, the reason it gives, and its report."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fastrnn
from fastrnn import FusedRNN, FusedRNNCell, ReadoutRNN


class Mine(nn.RNN):
    """A user's layer."""


class Ours(FusedRNN):
    """A user's layer of ours."""


def replaced(layer):
    layer.forward = layer.forward  # as accelerate's hooks do
    return layer


SUBCLASS = "{} is a subclass, with perhaps a forward of its own: derive it from {} instead of {}"
ANOTHER = "{} is another recurrence than nn.RNN's, the only one that fastrnn has"
REPLACED = "its forward was replaced: {} the model before that is done"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell])
def test_other_recurrences_are_left(kind):
    report = fastrnn.convert(kind(3, 4))
    assert (report.converted, report.left) == ({}, {"": ANOTHER.format(kind.__name__)})
    assert type(report.model) is kind


@pytest.mark.parametrize(
    "make",
    [lambda: Mine(3, 4), lambda: parametrizations.weight_norm(Mine(3, 4), "weight_hh_l0")],
    ids=["plain", "parametrized"],
)
def test_subclasses_are_left(make):
    report = fastrnn.convert(make())
    assert report.left == {"": SUBCLASS.format("Mine", "FusedRNN", "RNN")}
    assert isinstance(report.model, Mine)


def test_a_replaced_forward_is_left():
    model = nn.Sequential(replaced(nn.RNN(3, 4)), nn.Linear(4, 4))
    assert fastrnn.convert(model).left == {"0": REPLACED.format("convert")}
    assert type(model[0]) is nn.RNN


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
@pytest.mark.parametrize("traced", [False, True])
def test_a_torchscript_module_is_left(traced):
    model = nn.Sequential(nn.RNN(3, 4))
    x = torch.randn(5, 2, 3)
    compiled = torch.jit.trace(model, x) if traced else torch.jit.script(model)
    report = fastrnn.convert(nn.Sequential(compiled))
    assert report.converted == {}
    assert report.left == {"0.0": "TorchScript compiled it: convert the model it was compiled from"}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
def test_a_quantized_layer_is_left():
    float_model = nn.Sequential(nn.RNNCell(3, 4), nn.LSTM(3, 4))
    model = torch.ao.quantization.quantize_dynamic(float_model, {nn.RNNCell, nn.LSTM})
    report = fastrnn.convert(model)
    assert report.converted == {}
    assert report.left == {
        "0": "it is quantized, and fastrnn computes in floats",
        "1": ANOTHER.format("LSTM"),
    }


def test_what_is_not_reverted_and_why():
    heads, learned = FusedRNN(3, 4), FusedRNN(3, 4)
    heads.num_heads, learned.learned_h0 = 2, True
    model = nn.ModuleDict(
        {
            "heads": heads,
            "learned": learned,
            "subclass": Ours(3, 4),
            "replaced": replaced(FusedRNN(3, 4)),
            "readout": ReadoutRNN(3, 4, 5),
            "rnn": nn.RNN(3, 4),
            "cell": FusedRNNCell(3, 4),
        }
    )
    classes = [type(module) for module in model.modules()]
    report = fastrnn.revert(model)
    assert report.converted == {"cell": "RNNCell(3, 4)"}
    assert report.left == {
        "heads": "it has 2 heads, and nn.RNN has no W_hh of blocks",
        "learned": "its initial state is learned, and nn.RNN has none",
        "subclass": SUBCLASS.format("Ours", "RNN", "FusedRNN"),
        "replaced": REPLACED.format("revert"),
        "readout.rnn": "ReadoutRNN calls it with lengths, which nn.RNN does not take",
    }
    assert [type(module) for module in model.modules()] == [*classes[:-1], nn.RNNCell]


def test_reports_are_readable():
    model = nn.ModuleDict({"encoder": nn.Sequential(nn.RNN(64, 128, 2)), "lstm": nn.LSTM(3, 4)})
    model["decoder"] = model["encoder"]
    assert str(fastrnn.convert(model)) == (
        "2 converted, 1 left\n"
        "  encoder.0  is now FusedRNN(64, 128, num_layers=2)\n"
        "  decoder.0  is now FusedRNN(64, 128, num_layers=2), shared with encoder.0\n"
        "  lstm       left: " + ANOTHER.format("LSTM")
    )
    assert str(fastrnn.convert(nn.RNNCell(3, 4))) == (
        "1 converted, nothing left\n  (the model)  is now FusedRNNCell(3, 4)"
    )
    assert str(fastrnn.convert(nn.GRU(3, 4))).startswith("Nothing converted, 1 left\n")


def test_nothing_to_convert_is_no_error_and_converting_twice_changes_nothing():
    rnn, x = nn.RNN(3, 4), torch.randn(5, 2, 3)
    fastrnn.convert(rnn)
    before = vars(rnn).copy()
    expected = rnn(x)
    again = fastrnn.convert(rnn)
    assert (again.converted, again.left) == ({}, {})
    assert str(again) == "Nothing to do: there is no nn.RNN or nn.RNNCell in this FusedRNN."
    assert type(rnn) is FusedRNN
    assert vars(rnn) == before
    assert torch.equal(rnn(x)[0], expected[0])
    assert str(fastrnn.revert(nn.Linear(3, 4))) == (
        "Nothing to do: there is no FusedRNN or FusedRNNCell in this Linear."
    )


@pytest.mark.parametrize(
    ("given", "what"), [({}, "dict"), (nn.RNN, "the class RNN"), (None, "NoneType")]
)
@pytest.mark.parametrize("change", [fastrnn.convert, fastrnn.revert])
def test_what_is_no_module_is_refused_with_what_to_do(change, given, what):
    with pytest.raises(ValueError, match=f"{change.__name__} .* got {what}: give it the model"):
        change(given)
