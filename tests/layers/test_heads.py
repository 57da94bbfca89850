"""Heads, a block-diagonal W_hh, and learned initial states: parameters that torch's layers lack."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, skip_init
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from fastrnn import FusedLSTM, FusedRNN, functional

from ..utils.expected_resets import learned, run_torch
from ..utils.nn_rnn_parity import (
    TORCH,
    assert_same,
    each_state,
    every_layer,
    gradients,
    options_for,
    outcome,
    random_hx,
    rnn_and_lstm,
    tensors,
)

X = torch.randn(5, 2, 3, dtype=torch.float64)
KINDS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"nonlinearity": "relu", "bias": False},
]


def layer(hidden_size: int = 6, ours=FusedRNN, **kwargs):
    """Return a float64 layer with nonzero learned initial states, if it has some."""
    torch.manual_seed(0)
    rnn = ours(3, hidden_size, **options_for(ours, kwargs), dtype=torch.float64)
    if rnn.learned_h0:
        for start in tensors(learned(rnn)):
            nn.init.normal_(start)
    return rnn


@every_layer
@pytest.mark.parametrize("kwargs", KINDS)
@pytest.mark.parametrize("num_heads", [2, 3, 6])
@pytest.mark.parametrize("steps", [1, 5])
def test_heads_are_a_block_diagonal_matrix(kwargs, num_heads, steps, ours):
    rnn = layer(num_heads=num_heads, ours=ours, **kwargs)
    x, hx = X[:steps].clone().requires_grad_(), random_hx(rnn, 2, requires_grad=True)
    output, h_n = rnn(x.transpose(0, 1) if rnn.batch_first else x, hx)
    actual = output.transpose(0, 1) if rnn.batch_first else output, h_n
    expected = run_torch(rnn, x, hx)
    assert_same(actual, expected)
    leaves = [x, *tensors(hx), *rnn.parameters()]
    assert_same(gradients(actual, leaves), gradients(expected, leaves))
    first = x[:, 0], each_state(lambda h: h[:, 0], hx)
    with torch.no_grad():
        assert_same(rnn(*first), run_torch(rnn, *first))
    assert all(state.is_contiguous() for state in tensors(h_n))


@every_layer
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_rows(enforce_sorted, ours):
    rnn = layer(num_heads=2, num_layers=2, bidirectional=True, learned_h0=True, ours=ours)
    rows = [X[:, 0], X[:2, 1]] if enforce_sorted else [X[:2, 1], X[:, 0]]
    output, h_n = rnn(pack_sequence(rows, enforce_sorted))
    for row, (sequence, unpacked) in enumerate(zip(rows, unpack_sequence(output), strict=True)):
        of_row = each_state(lambda h: h[:, row], h_n)  # noqa: B023
        assert_same((unpacked, of_row), run_torch(rnn, sequence, learned(rnn)))


@every_layer
@pytest.mark.parametrize("kwargs", KINDS)
def test_names_shapes_and_bounds(kwargs, ours):
    """All match torch except weight_hh: each head draws it as a layer of the head's size does."""
    kwargs = options_for(ours, kwargs)
    rnn = ours(3, 64, num_heads=16, learned_h0=True, **kwargs)
    theirs, starts = TORCH[ours](3, 64, **kwargs), ["h0", "c0"] if ours is FusedLSTM else ["h0"]
    assert list(rnn.state_dict()) == [*theirs.state_dict(), *starts]
    for name, p in theirs.named_parameters():
        mine = getattr(rnn, name)
        heads = "weight_hh" in name
        assert mine.shape == ((16, p.shape[0] // 16, 4) if heads else p.shape)
        bound = 1 / math.sqrt(4 if heads else 64)
        assert 0.9 * bound < mine.abs().max() <= bound
    for start in tensors(learned(rnn)):
        assert start.shape == (4 if rnn.bidirectional else 1, 64)
        assert not start.any()
    assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=False))


@rnn_and_lstm
@pytest.mark.parametrize("kwargs", [{"num_heads": 2}, {"num_heads": 2, "learned_h0": True}])
def test_the_same_seed_gives_the_same_weights(kwargs, ours):
    rnn = layer(ours=ours, **kwargs)
    before = copy.deepcopy(rnn.state_dict())
    for name in before.keys() & {"h0", "c0"}:
        before[name].zero_()
    torch.manual_seed(0)
    rnn.reset_parameters()
    assert all(map(torch.equal, rnn.state_dict().values(), before.values()))
    torch.manual_seed(0)
    theirs = TORCH[ours](3, 6, dtype=torch.float64)
    torch.manual_seed(0)
    one_head = ours(3, 6, dtype=torch.float64, num_heads=1, learned_h0=True)
    assert all(map(torch.equal, one_head.parameters(), theirs.parameters()))


@rnn_and_lstm
def test_meta_device_copies_and_pickles(ours):
    kwargs = {"num_layers": 2, "bidirectional": True, "num_heads": 2, "learned_h0": True}
    rnn = layer(ours=ours, **kwargs)
    empty = ours(3, 6, **kwargs, device="meta", dtype=torch.float64)
    assert empty(X.to("meta"))[0].shape == (5, 2, 12)
    empty.to_empty(device="cpu")
    skipped = skip_init(ours, 3, 6, **kwargs, dtype=torch.float64)
    assigned = ours(3, 6, **kwargs, device="meta", dtype=torch.float64)
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


@rnn_and_lstm
def test_functional_call_and_parametrizations(ours):
    rnn = layer(num_heads=2, learned_h0=True, ours=ours)
    other = {name: 0.5 * p.detach() for name, p in rnn.named_parameters()}
    halved = copy.deepcopy(rnn)
    halved.load_state_dict(other)
    assert_same(torch.func.functional_call(rnn, other, (X,)), halved(X))
    parametrizations.orthogonal(rnn, "weight_hh_l0")
    parametrizations.weight_norm(rnn, "h0")
    assert_same(rnn.weight_hh_l0.mT @ rnn.weight_hh_l0, torch.eye(3).double().expand(2, 3, 3))
    plain = layer(num_heads=2, learned_h0=True, ours=ours)
    plain.load_state_dict({name: getattr(rnn, name) for name in other})
    assert_same(rnn(X), plain(X))
    assert all(g.any() for g in gradients(rnn(X), rnn.parameters()))


@every_layer
def test_the_initial_state_is_learned(ours):
    """Without hx, h0 is the initial state, initially 0. Its gradient is the sum of hx's."""
    torch.manual_seed(0)
    rnn = ours(3, 6, 2, bidirectional=True, learned_h0=True, dtype=torch.float64)
    assert_same(rnn(X), run_torch(rnn, X))
    starts = tensors(learned(rnn))
    for start in starts:
        nn.init.normal_(start)
    hx = each_state(lambda h: h.detach()[:, None].repeat(1, 2, 1).requires_grad_(), learned(rnn))
    assert_same(rnn(X), rnn(X, hx))
    assert_same(rnn(X[:, 0]), rnn(X[:, 0], each_state(lambda h: h[:, 0], hx)))
    for lengths in (None, torch.tensor([3, 0])):
        found = gradients(rnn(X, lengths=lengths), starts)
        given = gradients(rnn(X, hx, lengths=lengths), tensors(hx))
        assert_same(found, [grad.sum(1) for grad in given])
    _, h_n = rnn(X, lengths=torch.tensor([0, 5]))
    assert_same([h[:, 0] for h in tensors(h_n)], starts)
    rnn(X, hx)[0].sum().backward()
    assert all(start.grad is None for start in starts)


def test_repr_and_layers_of_earlier_versions():
    assert repr(FusedRNN(3, 4, 2)) == "FusedRNN(3, 4, num_layers=2)"
    assert repr(FusedRNN(3, 4, num_heads=2)) == "FusedRNN(3, 4, num_heads=2)"
    assert repr(FusedRNN(3, 4, learned_h0=True)) == "FusedRNN(3, 4, learned_h0=True)"
    assert repr(FusedLSTM(3, 4, proj_size=2)) == "FusedLSTM(3, 4, proj_size=2)"
    rnn = layer()
    old = copy.deepcopy(rnn)
    del old.__dict__["num_heads"], old.__dict__["learned_h0"]  # as in a layer of an earlier version
    old = pickle.loads(pickle.dumps(old))
    assert_same(old(X), rnn(X))
    assert repr(old) == repr(rnn)
    old.reset_parameters()
    assert not torch.equal(old.weight_hh_l0, rnn.weight_hh_l0)


@rnn_and_lstm
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
def test_invalid_arguments(kwargs, kind, words, ours):
    with pytest.raises(kind, match=words):
        ours(3, 6, **kwargs)


@every_layer
def test_our_own_arguments_are_keyword_only(ours):
    """The positions after the arguments of torch's layer are reserved for future ones of torch."""
    given = {"bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
    if ours is FusedRNN:
        given = {"nonlinearity": "tanh", **given}
    if ours is FusedLSTM:
        given["proj_size"] = 0
    given |= {"device": None, "dtype": None}
    own = [name for name in inspect.signature(ours).parameters if name not in given][3:]
    leak = ["leak", "learned_leak", "leak_on"] if ours is FusedRNN else []
    assert own == ["num_heads", "learned_h0", *leak, "unknown"]
    assert list(inspect.signature(ours).parameters)[3 : 3 + len(given)] == list(given)
    assert outcome(lambda: ours(3, 4, 1, *given.values()))[0] is ours
    assert outcome(lambda: ours(3, 4, 1, *given.values(), 2))[0] is TypeError


def test_layers_of_a_stack_need_equal_heads():
    weights = [*FusedRNN(3, 6, num_heads=2).parameters(), *FusedRNN(6, 6, num_heads=3).parameters()]
    with pytest.raises(ValueError, match=r"must have the same shape.* \[2, 3, 3\] and \[3, 2, 2\]"):
        functional.rnn(X.float(), None, weights, num_layers=2)
