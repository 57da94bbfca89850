"""Our layers and cells raise the same errors as torch's, with the same messages."""

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from fastrnn import FusedGRU, FusedLSTM, FusedLSTMCell, FusedRNN, FusedRNNCell

from ..utils.nn_rnn_parity import (
    TORCH,
    count_states,
    every_cell,
    every_layer,
    outcome,
    paired_layers,
    rnn_and_lstm,
)

CONSTRUCTIONS = {
    "nothing": ((), {}),
    "one size": ((4,), {}),
    "proj_size": ((4, 5), {"proj_size": 2}),
    "proj_size of 0": ((4, 5), {"proj_size": 0}),
    "negative proj_size": ((4, 5), {"proj_size": -1}),
    "proj_size of hidden_size": ((4, 5), {"proj_size": 5}),
    "unknown nonlinearity": ((4, 5), {"nonlinearity": "gelu"}),
    "nonlinearity or bias comes fourth": ((4, 5, 1, "gelu"), {}),
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


@every_layer
@pytest.mark.parametrize("case", CONSTRUCTIONS)
def test_construction(case, ours):
    args, kwargs = CONSTRUCTIONS[case]
    kind, words = outcome(lambda: ours(*args, **kwargs))
    expected_kind, expected_words = outcome(lambda: TORCH[ours](*args, **kwargs))
    if expected_kind is TORCH[ours]:  # torch 2.10 accepts some; ours checks bools everywhere
        assert kind is (TypeError if case.startswith("integer b") else ours)
        return
    assert issubclass(kind, Exception)
    assert kind is expected_kind
    if "__init__() missing" in words:  # Python names the class and lists the same arguments
        words, expected_words = words.partition(" ")[2], expected_words.partition(" ")[2]
    assert words == expected_words


@rnn_and_lstm
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("bias", "batch_first", "bidirectional"), (1, 0, "yes", None)),
        ("num_layers", True),
    ],
)
def test_construction_with_another_type(name, value, ours):
    """torch's layers reject some of these only when they are called."""
    with pytest.raises(TypeError):
        TORCH[ours](4, 5, **{name: value})(X)
    with pytest.raises(TypeError, match=f"{name} should be of type (bool|int), got: "):
        ours(4, 5, **{name: value})


@every_layer
def test_dropout_with_one_layer_warns(ours):
    warned = []
    for layer in (ours, TORCH[ours]):
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


def hx(layer: nn.RNNBase, *size: int, **options: Any) -> Tensor | tuple[Tensor, Tensor]:
    """Return a state of zeros, or two for an LSTM."""
    zeros = torch.zeros(size, **options)
    return (zeros, zeros) if layer.mode == "LSTM" else zeros


CALLS = {
    "no steps": lambda r: r(X[:0].transpose(0, 1) if r.batch_first else X[:0]),
    "no steps, unbatched": lambda r: r(X[:0, 0]),
    "no steps, hidden state on another device": lambda r: r(X[:0], hx(r, 2, 2, 5, **META)),
    "0-D": lambda r: r(X[0, 0, 0]),
    "1-D": lambda r: r(X[0, 0]),
    "4-D": lambda r: r(X[None]),
    "a list": lambda r: r([1, 2]),
    "nothing": lambda r: r(None),
    "hidden state 2-D": lambda r: r(X, hx(r, 2, 5)),
    "hidden state 3-D, unbatched": lambda r: r(X[:, 0], hx(r, 2, 1, 5)),
    "hidden state of another batch": lambda r: r(X, hx(r, 2, 9, 5)),
    "hidden state to broadcast": lambda r: r(X, hx(r, 2, 1, 5)),
    "hidden state of another size, unbatched": lambda r: r(X[:, 0], hx(r, 2, 7)),
    "hidden state of another depth": lambda r: r(X, hx(r, 1, 2, 5)),
    "a number as hidden state": lambda r: r(X, 3),
    "a pair of pairs": lambda r: r(X, ((torch.zeros(2, 2, 5),) * 2,) * 2),
    "another size": lambda r: r(torch.randn(3, 2, 7)),
    "another size, unbatched": lambda r: r(torch.randn(3, 7)),
    "another dtype": lambda r: r(X.double()),
    "another dtype and size": lambda r: r(torch.randn(3, 2, 7).double()),
    "integers": lambda r: r(X.long()),
    "input on another device": lambda r: r(X.to("meta")),
    "input and hidden state on another device": lambda r: r(
        X.to("meta"), hx(r, 2, *((3,) if r.batch_first else (2,)), 5, **META)
    ),
    "hidden state on another device": lambda r: r(
        X, hx(r, 2, *((3,) if r.batch_first else (2,)), 5, **META)
    ),
    "parameters on another device": lambda r: r.to("meta")(X),
    "packed, another size": lambda r: r(packed(3, 2, features=7)),
    "packed, another dtype": lambda r: r(packed(3, 2, dtype=torch.float64)),
    "packed, hidden state of another batch": lambda r: r(packed(3, 2), hx(r, 2, 3, 5)),
    "packed, hidden state 2-D": lambda r: r(packed(3, 2), hx(r, 2, 5)),
    "packed, unsorted, hidden state 2-D": lambda r: r(
        packed(2, 3, enforce_sorted=False), hx(r, 2, 5)
    ),
    "packed, unsorted, hidden state of a smaller batch": lambda r: r(
        packed(2, 3, enforce_sorted=False), hx(r, 2, 1, 5)
    ),
    "sparse": lambda r: r(X.to_sparse()),
    "sparse, one step": lambda r: r((X[:, :1] if r.batch_first else X[:1]).to_sparse()),
    "sparse, one step unbatched": lambda r: r(X[:1, 0].to_sparse()),
    "packed, 3-D data": lambda r: r(PackedSequence(X, torch.tensor([1, 1, 1]))),
}


LSTM_CALLS = {
    "a tensor as a pair": lambda r: r(X, torch.zeros(2, 2, 5)),
    "a tensor of one state": lambda r: r(X, torch.zeros(1, 2, 5)),
    "one state": lambda r: r(X, (torch.zeros(2, 2, 5),)),
    "three states": lambda r: r(X, (torch.zeros(2, 2, 5),) * 3),
    "three states, packed": lambda r: r(packed(3, 2), (torch.zeros(2, 2, 5),) * 3),
    "a dict": lambda r: r(X, {}),
    "c 2-D": lambda r: r(X, (torch.zeros(2, 2, 5), torch.zeros(2, 5))),
    "h 2-D": lambda r: r(X, (torch.zeros(2, 5), torch.zeros(2, 2, 5))),
    "c 3-D, unbatched": lambda r: r(X[:, 0], (torch.zeros(2, 5), torch.zeros(2, 1, 5))),
    "c of another size": lambda r: r(X, (torch.zeros(2, 2, 5), torch.zeros(2, 2, 6))),
    "h of another size": lambda r: r(X, (torch.zeros(2, 2, 6), torch.zeros(2, 2, 5))),
    "c on another device": lambda r: r(
        X[:2, :2], (torch.zeros(2, 2, 5), torch.zeros(2, 2, 5, **META))
    ),
}


@every_layer
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("case", CALLS)
def test_call(case, batch_first, ours):
    mine, theirs = paired_layers(4, 5, 2, ours=ours, batch_first=batch_first)
    actual, expected = (outcome(lambda layer=layer: CALLS[case](layer)) for layer in (mine, theirs))
    assert issubclass(actual[0], Exception)
    if ours is FusedLSTM and case.startswith("packed"):
        # nn.LSTM does not check packed input, so an operation fails. Ours checks it like nn.RNN.
        assert issubclass(expected[0], Exception)
        kind, words = outcome(lambda: CALLS[case](nn.RNN(4, 5, 2, batch_first=batch_first)))
        expected = kind, words.replace("hidden size", "hidden[0] size")
    assert actual == expected


@pytest.mark.parametrize("case", LSTM_CALLS)
def test_states_of_an_lstm(case):
    pair = paired_layers(4, 5, 2, ours=FusedLSTM)
    actual, expected = (outcome(lambda layer=layer: LSTM_CALLS[case](layer)) for layer in pair)
    assert issubclass(actual[0], Exception)
    assert actual == expected


@pytest.mark.parametrize("ours", [FusedRNN, FusedGRU])
def test_a_pair_of_hidden_states(ours):
    pair = paired_layers(4, 5, 2, ours=ours)
    states = (torch.zeros(2, 2, 5),) * 2
    actual, expected = (outcome(lambda layer=layer: layer(X, states)) for layer in pair)
    assert issubclass(actual[0], Exception)
    assert actual == expected


@every_layer
def test_dropout_set_to_an_invalid_probability(ours):
    """The messages agree. nn.RNN raises RuntimeError, torch.nn.functional ValueError."""
    mine, theirs = paired_layers(4, 5, 2, ours=ours, dropout=0.5)
    mine.dropout = theirs.dropout = 1.5
    assert outcome(lambda: mine(X))[1] == outcome(lambda: theirs(X))[1]


@every_layer
@pytest.mark.parametrize(
    ("x", "size", "dtype"),
    [
        (X, (2, 2, 5), torch.float64),
        (X[:, 0], (2, 5), torch.float16),
        (packed(3, 2), (2, 2, 5), torch.float64),
    ],
)
def test_hidden_state_of_another_dtype(x, size, dtype, ours):
    """The message of torch's layer depends on its implementation. Ours is ATen's."""
    mine, theirs = paired_layers(4, 5, 2, ours=ours)
    wrong = hx(mine, *size, dtype=dtype)
    assert outcome(lambda: theirs(x, wrong))[0] is RuntimeError
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not the same dtype"):
        mine(x, wrong)


def test_c_of_another_dtype():
    wrong = torch.zeros(2, 2, 5), torch.zeros(2, 2, 5).double()
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not the same dtype"):
        FusedLSTM(4, 5, 2)(X, wrong)


@every_layer
@pytest.mark.parametrize(
    "case",
    [
        lambda r: r(packed(3, 2), hx(r, 2, 2, 5, **META)),
        lambda r: r.to("meta")(packed(3, 2)),
    ],
)
def test_packed_tensors_on_another_device(case, ours):
    """torch checks devices for padded input only. Ours checks packed input in the same way."""
    mine, theirs = paired_layers(4, 5, 2, ours=ours)
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


@pytest.mark.parametrize(
    ("call", "feature"),
    [
        (lambda r: r(X, lengths=torch.tensor([3, 2])), "lengths"),
        (lambda r: r(X, resets=torch.zeros(3, 2).bool()), "resets"),
        (lambda r: r.step(X[0]), "step"),
        (lambda r: FusedLSTM(4, 6, proj_size=2, num_heads=2), "num_heads"),
        (lambda r: FusedLSTM(4, 6, proj_size=2, learned_h0=True), "learned_h0"),
    ],
)
def test_projections_with_a_feature_that_nn_lstm_lacks(call, feature):
    message = f"a layer with proj_size > 0, and it does not support {feature}: set proj_size=0"
    with pytest.raises(ValueError, match=message):
        call(FusedLSTM(4, 5, proj_size=2))


def state(cell: nn.RNNCellBase, *size: int, **options: Any) -> Tensor | tuple[Tensor, Tensor]:
    """Return a random state, or two for an LSTM."""
    given = torch.randn(size, **options)
    return (given, given) if count_states(cell) == 2 else given


CELL_CALLS = {
    "another size": lambda c: c(torch.randn(2, 7)),
    "another size, unbatched": lambda c: c(torch.randn(7)),
    "another size and hidden state": lambda c: c(torch.randn(2, 7), state(c, 3, 6)),
    "0-D": lambda c: c(X[0, 0, 0]),
    "3-D": lambda c: c(X),
    "hidden state 3-D": lambda c: c(X[0], state(c, 1, 2, 5)),
    "hidden state of another batch": lambda c: c(X[0], state(c, 1, 5)),
    "hidden state of another batch and size": lambda c: c(X[0], state(c, 3, 6)),
    "hidden state of another size": lambda c: c(X[0], state(c, 2, 6)),
    "hidden state of another size, unbatched": lambda c: c(X[0, 0], state(c, 6)),
    "hidden state 1-D for a batch": lambda c: c(X[0], state(c, 5)),
    "hidden state 1-D as long as the batch": lambda c: c(X[0], state(c, 2)),
    "hidden state 2-D, unbatched": lambda c: c(X[0, 0], state(c, 1, 5)),
    "another dtype": lambda c: c(X[0].double()),
    "hidden state on another device": lambda c: c(X[0], state(c, 2, 5, **META)),
    "hidden state of another dtype": lambda c: c(X[0], state(c, 2, 5, dtype=torch.float64)),
}
LSTM_CELL_CALLS = {
    "a tensor as a pair": lambda c: c(X[0], torch.zeros(2, 5)),
    "a tensor as a pair, 3-D": lambda c: c(X[0], torch.zeros(3, 2, 5)),
    "a number as a pair": lambda c: c(X[0], 3),
    "one state": lambda c: c(X[0], (torch.zeros(2, 5),)),
    "three states": lambda c: c(X[0], (torch.zeros(2, 5),) * 3),
    "c 3-D": lambda c: c(X[0], (torch.zeros(2, 5), torch.zeros(1, 2, 5))),
    "c of another batch": lambda c: c(X[0], (torch.zeros(2, 5), torch.zeros(3, 5))),
    "c of another size": lambda c: c(X[0], (torch.zeros(2, 5), torch.zeros(2, 6))),
    "c of another dtype": lambda c: c(X[0], (torch.zeros(2, 5), torch.zeros(2, 5).double())),
}


@every_cell
@pytest.mark.parametrize("case", CELL_CALLS)
def test_cell_call(case, ours):
    mine, theirs = paired_layers(4, 5, ours=ours)
    actual, expected = (
        outcome(lambda cell=cell: CELL_CALLS[case](cell)) for cell in (mine, theirs)
    )
    assert issubclass(actual[0], Exception)
    assert actual == expected


@pytest.mark.parametrize("case", LSTM_CELL_CALLS)
def test_states_of_an_lstm_cell(case):
    pair = paired_layers(4, 5, ours=FusedLSTMCell)
    actual, expected = (outcome(lambda cell=cell: LSTM_CELL_CALLS[case](cell)) for cell in pair)
    assert actual == expected


def test_cell_with_unknown_nonlinearity_raises_when_called():
    mine, theirs = paired_layers(4, 5, nonlinearity="gelu", ours=FusedRNNCell)
    assert outcome(lambda: mine(X)) == outcome(lambda: theirs(X))
    assert outcome(lambda: mine(X[0])) == outcome(lambda: theirs(X[0]))
