"""Heads, a block-diagonal W_hh, and a learned initial state: parameters that nn.RNN cannot have."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, skip_init
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from fastrnn import FusedRNN, functional

from ..utils.expected_resets import run_nn_rnn
from ..utils.nn_rnn_parity import assert_same, gradients, outcome

X = torch.randn(5, 2, 3, dtype=torch.float64)
KINDS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"nonlinearity": "relu", "bias": False},
]


def layer(hidden_size: int = 6, **kwargs) -> FusedRNN:
    """Return a float64 layer with a nonzero learned initial state, if it has one."""
    torch.manual_seed(0)
    rnn = FusedRNN(3, hidden_size, **kwargs, dtype=torch.float64)
    if rnn.learned_h0:
        nn.init.normal_(rnn.h0)
    return rnn


@pytest.mark.parametrize("kwargs", KINDS)
@pytest.mark.parametrize("num_heads", [2, 3, 6])
@pytest.mark.parametrize("steps", [1, 5])
def test_heads_are_a_block_diagonal_matrix(kwargs, num_heads, steps):
    rnn = layer(num_heads=num_heads, **kwargs)
    states = rnn.num_layers * (2 if rnn.bidirectional else 1)
    x = X[:steps].clone().requires_grad_()
    hx = torch.randn(states, 2, 6, dtype=torch.float64, requires_grad=True)
    output, h_n = rnn(x.transpose(0, 1) if rnn.batch_first else x, hx)
    actual = output.transpose(0, 1) if rnn.batch_first else output, h_n
    expected = run_nn_rnn(rnn, x, hx)
    assert_same(actual, expected)
    leaves = [x, hx, *rnn.parameters()]
    assert_same(gradients(actual, leaves), gradients(expected, leaves))
    with torch.no_grad():
        assert_same(rnn(x[:, 0], hx[:, 0]), run_nn_rnn(rnn, x[:, 0], hx[:, 0]))
    assert h_n.is_contiguous()


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_rows(enforce_sorted):
    rnn = layer(num_heads=2, num_layers=2, bidirectional=True, learned_h0=True)
    rows = [X[:, 0], X[:2, 1]] if enforce_sorted else [X[:2, 1], X[:, 0]]
    output, h_n = rnn(pack_sequence(rows, enforce_sorted))
    for row, (sequence, unpacked) in enumerate(zip(rows, unpack_sequence(output), strict=True)):
        assert_same((unpacked, h_n[:, row]), run_nn_rnn(rnn, sequence, rnn.h0))


@pytest.mark.parametrize("kwargs", KINDS)
def test_names_shapes_and_bounds(kwargs):
    """All match nn.RNN except weight_hh: each head draws it as a layer of the head's size does."""
    rnn = FusedRNN(3, 64, num_heads=16, learned_h0=True, **kwargs)
    theirs = nn.RNN(3, 64, **kwargs)
    assert list(rnn.state_dict()) == [*theirs.state_dict(), "h0"]
    for name, p in theirs.named_parameters():
        ours = getattr(rnn, name)
        heads = "weight_hh" in name
        assert ours.shape == ((16, 4, 4) if heads else p.shape)
        bound = 1 / math.sqrt(4 if heads else 64)
        assert 0.9 * bound < ours.abs().max() <= bound
    assert rnn.h0.shape == (4 if rnn.bidirectional else 1, 64)
    assert not rnn.h0.any()
    assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=False))


@pytest.mark.parametrize("kwargs", [{"num_heads": 2}, {"num_heads": 2, "learned_h0": True}])
def test_the_same_seed_gives_the_same_weights(kwargs):
    rnn = layer(**kwargs)
    before = copy.deepcopy(rnn.state_dict())
    if rnn.learned_h0:
        before["h0"].zero_()
    torch.manual_seed(0)
    rnn.reset_parameters()
    assert all(map(torch.equal, rnn.state_dict().values(), before.values()))
    torch.manual_seed(0)
    theirs = nn.RNN(3, 6, dtype=torch.float64)
    torch.manual_seed(0)
    one_head = FusedRNN(3, 6, dtype=torch.float64, num_heads=1, learned_h0=True)
    assert all(map(torch.equal, one_head.parameters(), theirs.parameters()))


def test_meta_device_copies_and_pickles():
    kwargs = {"num_layers": 2, "bidirectional": True, "num_heads": 2, "learned_h0": True}
    rnn = layer(**kwargs)
    empty = FusedRNN(3, 6, **kwargs, device="meta", dtype=torch.float64)
    assert empty(X.to("meta"))[0].shape == (5, 2, 12)
    empty.to_empty(device="cpu")
    skipped = skip_init(FusedRNN, 3, 6, **kwargs, dtype=torch.float64)
    assigned = FusedRNN(3, 6, **kwargs, device="meta", dtype=torch.float64)
    assigned.load_state_dict(rnn.state_dict(), assign=True)
    for other in (empty, skipped):
        other.load_state_dict(rnn.state_dict())
    for other in (
        empty,
        skipped,
        assigned,
        copy.deepcopy(rnn),
        pickle.loads(pickle.dumps(rnn)),
    ):
        assert_same(other(X), rnn(X))
    half = copy.deepcopy(rnn).bfloat16()
    assert all(p.dtype == torch.bfloat16 for p in half.parameters())
    assert half(X.bfloat16())[0].dtype == torch.bfloat16
    replica = rnn._replicate_for_data_parallel()
    for name, p in rnn.named_parameters():
        setattr(replica, name, p.clone())
    assert_same(replica(X), rnn(X))


def test_functional_call_and_parametrizations():
    rnn = layer(num_heads=2, learned_h0=True)
    other = {name: 0.5 * p.detach() for name, p in rnn.named_parameters()}
    halved = copy.deepcopy(rnn)
    halved.load_state_dict(other)
    assert_same(torch.func.functional_call(rnn, other, (X,)), halved(X))
    parametrizations.orthogonal(rnn, "weight_hh_l0")
    parametrizations.weight_norm(rnn, "h0")
    assert_same(rnn.weight_hh_l0.mT @ rnn.weight_hh_l0, torch.eye(3).double().expand(2, 3, 3))
    plain = layer(num_heads=2, learned_h0=True)
    plain.load_state_dict({name: getattr(rnn, name) for name in other})
    assert_same(rnn(X), plain(X))
    assert all(g.any() for g in gradients(rnn(X), rnn.parameters()))


def test_the_initial_state_is_learned():
    """Without hx, h0 is the initial state, initially 0. Its gradient is the sum of hx's."""
    torch.manual_seed(0)
    rnn = FusedRNN(3, 6, 2, bidirectional=True, learned_h0=True, dtype=torch.float64)
    assert_same(rnn(X), run_nn_rnn(rnn, X))
    nn.init.normal_(rnn.h0)
    hx = rnn.h0.detach()[:, None].repeat(1, 2, 1).requires_grad_()
    assert_same(rnn(X), rnn(X, hx))
    assert_same(rnn(X[:, 0]), rnn(X[:, 0], hx[:, 0]))
    for lengths in (None, torch.tensor([3, 0])):
        learned = gradients(rnn(X, lengths=lengths), [rnn.h0])[0]
        assert_same(learned, gradients(rnn(X, hx, lengths=lengths), [hx])[0].sum(1))
    assert_same(rnn(X, lengths=torch.tensor([0, 5]))[1][:, 0], rnn.h0)
    rnn(X, hx)[0].sum().backward()
    assert rnn.h0.grad is None


def test_repr_and_layers_of_earlier_versions():
    assert repr(FusedRNN(3, 4, 2)) == "FusedRNN(3, 4, num_layers=2)"
    assert repr(FusedRNN(3, 4, num_heads=2)) == "FusedRNN(3, 4, num_heads=2)"
    assert repr(FusedRNN(3, 4, learned_h0=True)) == "FusedRNN(3, 4, learned_h0=True)"
    rnn = layer()
    old = copy.deepcopy(rnn)
    del old.__dict__["num_heads"], old.__dict__["learned_h0"]  # as in a layer of an earlier version
    old = pickle.loads(pickle.dumps(old))
    assert_same(old(X), rnn(X))
    assert repr(old) == repr(rnn)
    old.reset_parameters()
    assert not torch.equal(old.weight_hh_l0, rnn.weight_hh_l0)


@pytest.mark.parametrize(
    ("kwargs", "kind", "words"),
    [
        ({"num_heads": 4}, ValueError, "must divide hidden_size.* 6 is not a multiple of 4"),
        ({"num_heads": 12}, ValueError, "must divide hidden_size"),
        ({"num_heads": 0}, ValueError, "must be a positive integer, got 0"),
        ({"num_heads": -2}, ValueError, "must be a positive integer, got -2"),
        ({"num_heads": 2.0}, ValueError, "must be a positive integer, got 2.0"),
        ({"num_heads": True}, ValueError, "must be a positive integer, got True"),
        ({"learned_h0": 1}, TypeError, "learned_h0 should be of type bool, got: int"),
    ],
)
def test_invalid_arguments(kwargs, kind, words):
    with pytest.raises(kind, match=words):
        FusedRNN(3, 6, **kwargs)


def test_num_heads_and_learned_h0_are_keyword_only():
    """The positions after nn.RNN's arguments are reserved for future arguments of nn.RNN."""
    positions = (3, 4, 1, "tanh", True, False, 0.0, False, None, None)
    assert outcome(lambda: FusedRNN(*positions))[0] is FusedRNN
    assert outcome(lambda: FusedRNN(*positions, 2))[0] is TypeError


def test_layers_of_a_stack_need_equal_heads():
    weights = [*FusedRNN(3, 6, num_heads=2).parameters(), *FusedRNN(6, 6, num_heads=3).parameters()]
    with pytest.raises(ValueError, match=r"must have the same shape.* \[2, 3, 3\] and \[3, 2, 2\]"):
        functional.rnn(X.float(), None, weights, num_layers=2)
