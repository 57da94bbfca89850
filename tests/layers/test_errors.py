"""Our layers raise the same errors as nn.RNN and nn.RNNCell, with the same messages."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from fastrnn import FusedRNN, FusedRNNCell

from ..utils.nn_rnn_parity import outcome, paired_layers

CONSTRUCTIONS = {
    "nothing": ((), {}),
    "one size": ((4,), {}),
    "proj_size": ((4, 5), {"proj_size": 2}),
    "proj_size of 0": ((4, 5), {"proj_size": 0}),
    "unknown nonlinearity": ((4, 5), {"nonlinearity": "gelu"}),
    "nonlinearity comes fourth": ((4, 5, 1, "gelu"), {}),
    "unknown nonlinearity before a bad size": ((4, 0), {"nonlinearity": None}),
    "unknown argument": ((4, 5), {"foo": 1}),
    "mode": ((4, 5), {"mode": "RNN_TANH"}),
    "dropout above 1": ((4, 5, 2), {"dropout": 1.5}),
    "dropout below 0": ((4, 5, 2), {"dropout": -0.5}),
    "boolean dropout": ((4, 5, 2), {"dropout": True}),
    "dropout as a string": ((4, 5, 2), {"dropout": "half"}),
    "float num_layers": ((4, 5, 2.0), {}),
    "no layers": ((4, 5, 0), {}),
    "integer bias": ((4, 5), {"bias": 1}),
    "integer batch_first": ((4, 5), {"batch_first": 0}),
    "float input_size": ((4.0, 5), {}),
    "no input": ((0, 5), {}),
    "negative hidden_size": ((4, -5), {}),
    "float hidden_size": ((4, 5.0), {}),
    "boolean hidden_size": ((4, True), {}),
    "integer dtype": ((4, 5), {"dtype": torch.int32}),
    "unknown device": ((4, 5), {"device": "abacus"}),
}


@pytest.mark.parametrize("case", CONSTRUCTIONS)
def test_construction(case):
    args, kwargs = CONSTRUCTIONS[case]
    kind, words = outcome(lambda: FusedRNN(*args, **kwargs))
    expected_kind, expected_words = outcome(lambda: nn.RNN(*args, **kwargs))
    if expected_kind is nn.RNN:  # torch 2.10 accepts some of these; ours checks bools everywhere
        assert kind is (TypeError if case.startswith("integer b") else FusedRNN)
        return
    assert issubclass(kind, Exception)
    assert kind is expected_kind
    if "__init__() missing" in words:  # Python names the class and lists the same arguments
        words, expected_words = words.partition(" ")[2], expected_words.partition(" ")[2]
    assert words == expected_words


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("bias", "batch_first", "bidirectional"), (1, 0, "yes", None)),
        ("num_layers", True),
    ],
)
def test_construction_with_another_type(name, value):
    """nn.RNN rejects some of these only when it is called."""
    with pytest.raises(TypeError):
        nn.RNN(4, 5, **{name: value})(X)
    with pytest.raises(TypeError, match=f"{name} should be of type (bool|int), got: "):
        FusedRNN(4, 5, **{name: value})


def test_dropout_with_one_layer_warns():
    warned = []
    for layer in (FusedRNN, nn.RNN):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            layer(4, 5, dropout=0.5)
        warned.append([(w.category, str(w.message)) for w in caught])
    assert len(warned[0]) == 1
    assert warned[0] == warned[1]


def packed(*lengths, features=4, enforce_sorted=True, dtype=torch.float32):
    rows = [torch.randn(n, features, dtype=dtype) for n in lengths]
    return pack_sequence(rows, enforce_sorted=enforce_sorted)


X = torch.randn(3, 2, 4)
META = {"device": "meta"}
CALLS = {
    "no steps": lambda r: r(X[:0].transpose(0, 1) if r.batch_first else X[:0]),
    "no steps, unbatched": lambda r: r(X[:0, 0]),
    "no steps, hidden state on another device": lambda r: r(X[:0], torch.zeros(2, 2, 5, **META)),
    "0-D": lambda r: r(X[0, 0, 0]),
    "1-D": lambda r: r(X[0, 0]),
    "4-D": lambda r: r(X[None]),
    "a list": lambda r: r([1, 2]),
    "nothing": lambda r: r(None),
    "hidden state 2-D": lambda r: r(X, torch.zeros(2, 5)),
    "hidden state 3-D, unbatched": lambda r: r(X[:, 0], torch.zeros(2, 1, 5)),
    "hidden state of another batch": lambda r: r(X, torch.zeros(2, 9, 5)),
    "hidden state to broadcast": lambda r: r(X, torch.zeros(2, 1, 5)),
    "hidden state of another size, unbatched": lambda r: r(X[:, 0], torch.zeros(2, 7)),
    "hidden state of another depth": lambda r: r(X, torch.zeros(1, 2, 5)),
    "a pair of hidden states": lambda r: r(X, (torch.zeros(2, 2, 5),) * 2),
    "another size": lambda r: r(torch.randn(3, 2, 7)),
    "another size, unbatched": lambda r: r(torch.randn(3, 7)),
    "another dtype": lambda r: r(X.double()),
    "another dtype and size": lambda r: r(torch.randn(3, 2, 7).double()),
    "integers": lambda r: r(X.long()),
    "input on another device": lambda r: r(X.to("meta")),
    "input and hidden state on another device": lambda r: r(
        X.to("meta"), torch.zeros(2, *((3,) if r.batch_first else (2,)), 5, **META)
    ),
    "hidden state on another device": lambda r: r(
        X, torch.zeros(2, *((3,) if r.batch_first else (2,)), 5, **META)
    ),
    "parameters on another device": lambda r: r.to("meta")(X),
    "packed, another size": lambda r: r(packed(3, 2, features=7)),
    "packed, another dtype": lambda r: r(packed(3, 2, dtype=torch.float64)),
    "packed, hidden state of another batch": lambda r: r(packed(3, 2), torch.zeros(2, 3, 5)),
    "packed, hidden state 2-D": lambda r: r(packed(3, 2), torch.zeros(2, 5)),
    "packed, unsorted, hidden state 2-D": lambda r: r(
        packed(2, 3, enforce_sorted=False), torch.zeros(2, 5)
    ),
    "packed, unsorted, hidden state of a smaller batch": lambda r: r(
        packed(2, 3, enforce_sorted=False), torch.zeros(2, 1, 5)
    ),
    "sparse": lambda r: r(X.to_sparse()),
    "sparse, one step": lambda r: r((X[:, :1] if r.batch_first else X[:1]).to_sparse()),
    "sparse, one step unbatched": lambda r: r(X[:1, 0].to_sparse()),
    "packed, 3-D data": lambda r: r(PackedSequence(X, torch.tensor([1, 1, 1]))),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("case", CALLS)
def test_call(case, batch_first):
    mine, theirs = paired_layers(4, 5, 2, batch_first=batch_first)
    actual, expected = (outcome(lambda layer=layer: CALLS[case](layer)) for layer in (mine, theirs))
    assert issubclass(actual[0], Exception)
    assert actual == expected


def test_dropout_set_to_an_invalid_probability():
    """The messages agree. nn.RNN raises RuntimeError, torch.nn.functional ValueError."""
    mine, theirs = paired_layers(4, 5, 2, dropout=0.5)
    mine.dropout = theirs.dropout = 1.5
    assert outcome(lambda: mine(X))[1] == outcome(lambda: theirs(X))[1]


@pytest.mark.parametrize(
    ("x", "hx"),
    [
        (X, torch.zeros(2, 2, 5).double()),
        (X[:, 0], torch.zeros(2, 5).half()),
        (packed(3, 2), torch.zeros(2, 2, 5).double()),
    ],
)
def test_hidden_state_of_another_dtype(x, hx):
    """nn.RNN's message depends on the device (matrix product or cuDNN). Ours is ATen's."""
    mine, theirs = paired_layers(4, 5, 2)
    assert outcome(lambda: theirs(x, hx))[0] is RuntimeError
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not the same dtype"):
        mine(x, hx)


@pytest.mark.parametrize(
    "case",
    [
        lambda r: r(packed(3, 2), torch.zeros(2, 2, 5, **META)),
        lambda r: r.to("meta")(packed(3, 2)),
    ],
)
def test_packed_tensors_on_another_device(case):
    """nn.RNN checks devices for padded input only. Ours checks packed input in the same way."""
    mine, theirs = paired_layers(4, 5, 2)
    assert outcome(lambda: case(theirs))[0] is RuntimeError
    with pytest.raises(RuntimeError, match="tensors are not at the same device"):
        case(mine)


@pytest.mark.parametrize(
    "sizes", [[1, 2, 2], [2, 2, 2], [2, 1, 1], [4, 2, -1], [], [[3, 2]], [3.0, 2.0]]
)
def test_inconsistent_batch_sizes(sizes):
    """nn.RNN raises the RuntimeError of the operation that fails first, or none."""
    mine, _ = paired_layers(4, 5, 2)
    wrong = PackedSequence(torch.randn(5, 4), torch.tensor(sizes))
    message = (
        "batch_sizes must be a 1-D tensor of integers, .*descending order, and sum to its 5 rows"
    )
    with pytest.raises(RuntimeError, match=message):
        mine(wrong)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastrnn.packed_layout(torch.tensor(sizes), wrong.data, None)


def test_packed_with_indices_of_another_batch():
    mine, _ = paired_layers(4, 5, 2)
    order = torch.tensor([1, 0])
    wrong = PackedSequence(torch.randn(5, 4), torch.tensor([3, 2]), order, order)
    with pytest.raises(RuntimeError, match="of 3 sequences came with indices or an hx of 2"):
        mine(wrong)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "lengths",
    [
        torch.tensor([3]),
        torch.tensor([[3, 2]]),
        torch.tensor(3),
        torch.tensor([3.0, 2.0]),
        torch.tensor([True, False]),
        torch.tensor([3, 2], device="meta"),
        [3, 2],
    ],
)
def test_lengths(lengths, batch_first):
    mine, _ = paired_layers(4, 5, batch_first=batch_first)
    x = X.transpose(0, 1) if batch_first else X
    with pytest.raises(ValueError, match=r"lengths must be .* of shape \[2\], one length per row"):
        mine(x, lengths=lengths)


@pytest.mark.parametrize("x", [X[:, 0], packed(3, 2)])
def test_lengths_without_padding(x):
    mine, _ = paired_layers(4, 5)
    with pytest.raises(ValueError, match="lengths is for padded 3-D input, but came with"):
        mine(x, lengths=torch.tensor([3, 2]))


CELL_CALLS = {
    "another size": lambda c: c(torch.randn(2, 7)),
    "another size, unbatched": lambda c: c(torch.randn(7)),
    "another size and hidden state": lambda c: c(torch.randn(2, 7), torch.randn(3, 6)),
    "0-D": lambda c: c(X[0, 0, 0]),
    "3-D": lambda c: c(X),
    "hidden state 3-D": lambda c: c(X[0], torch.randn(1, 2, 5)),
    "hidden state of another batch": lambda c: c(X[0], torch.randn(1, 5)),
    "hidden state of another batch and size": lambda c: c(X[0], torch.randn(3, 6)),
    "hidden state of another size": lambda c: c(X[0], torch.randn(2, 6)),
    "hidden state of another size, unbatched": lambda c: c(X[0, 0], torch.randn(6)),
    "hidden state 1-D for a batch": lambda c: c(X[0], torch.randn(5)),
    "hidden state 1-D as long as the batch": lambda c: c(X[0], torch.randn(2)),
    "hidden state 2-D, unbatched": lambda c: c(X[0, 0], torch.randn(1, 5)),
    "another dtype": lambda c: c(X[0].double()),
    "hidden state on another device": lambda c: c(X[0], torch.zeros(2, 5, **META)),
    "hidden state of another dtype": lambda c: c(X[0], torch.zeros(2, 5).double()),
}


@pytest.mark.parametrize("case", CELL_CALLS)
def test_cell_call(case):
    mine, theirs = paired_layers(4, 5, ours=FusedRNNCell)
    actual, expected = (
        outcome(lambda cell=cell: CELL_CALLS[case](cell)) for cell in (mine, theirs)
    )
    assert issubclass(actual[0], Exception)
    assert actual == expected


def test_cell_with_unknown_nonlinearity_raises_when_called():
    mine, theirs = paired_layers(4, 5, nonlinearity="gelu", ours=FusedRNNCell)
    assert outcome(lambda: mine(X)) == outcome(lambda: theirs(X))
    assert outcome(lambda: mine(X[0])) == outcome(lambda: theirs(X[0]))
