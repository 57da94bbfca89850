"""FusedRNNCell matches nn.RNNCell, and its steps match FusedRNN."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

import fastrnn
from fastrnn import FusedRNN, FusedRNNCell

from ..utils.nn_rnn_parity import (
    BACKWARD_EPS,
    FORWARD_EPS,
    assert_near,
    assert_same,
    gradients,
    paired_layers,
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from([1, 3, 8]),
    st.sampled_from([1, 4, 17]),
    st.booleans(),
    st.sampled_from(["tanh", "relu"]),
    st.sampled_from([(), (0,), (1,), (3,)]),
    st.booleans(),
)
def test_one_step(input_size, hidden_size, bias, nonlinearity, batch, with_state):
    mine, theirs = paired_layers(
        input_size, hidden_size, bias, nonlinearity, dtype=torch.float64, ours=FusedRNNCell
    )
    x = torch.randn(*batch, input_size, dtype=torch.float64, requires_grad=True)
    # Noncontiguous: every other column of a wider state.
    hx = torch.randn(*batch, 2 * hidden_size, dtype=torch.float64)[..., ::2].requires_grad_()
    given_state = [hx] if with_state else []
    actual, expected = mine(x, *given_state), theirs(x, *given_state)
    assert_same(actual, expected)
    assert_same(
        gradients(actual, [x, *given_state, *mine.parameters()]),
        gradients(expected, [x, *given_state, *theirs.parameters()]),
    )


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_stepping_the_cell_equals_the_layer(nonlinearity, bias):
    layer = FusedRNN(3, 4, nonlinearity=nonlinearity, bias=bias, dtype=torch.float64)
    cell = FusedRNNCell(3, 4, bias, nonlinearity, dtype=torch.float64)
    state = {name.removesuffix("_l0"): value for name, value in layer.state_dict().items()}
    cell.load_state_dict(state)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    h, outputs = None, []
    for x_t in x:
        h = cell(x_t, h)
        outputs.append(h)
    stepped, run = torch.stack(outputs), layer(x)[0]
    assert_same(stepped, run)
    assert_same(gradients(stepped, cell.parameters()), gradients(run, layer.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    torch.manual_seed(0)
    mine = FusedRNNCell(5, 33, dtype=dtype)
    exact = nn.RNNCell(5, 33, dtype=torch.float64)
    exact.load_state_dict(mine.state_dict())
    x, hx = torch.randn(3, 5, dtype=dtype), torch.rand(3, 33, dtype=dtype)
    actual, expected = mine(x, hx), exact(x.double(), hx.double())
    assert actual.dtype == dtype
    assert_near(actual, expected, FORWARD_EPS)
    pairs = zip(
        gradients(actual, mine.parameters()), gradients(expected, exact.parameters()), strict=True
    )
    for a, e in pairs:
        assert_near(a, e, BACKWARD_EPS)


def test_complex_numbers():
    mine, theirs = paired_layers(3, 4, dtype=torch.complex128, ours=FusedRNNCell)
    x = torch.randn(2, 3, dtype=torch.complex128)
    assert_same(mine(x), theirs(x))


def test_autocast():
    mine, theirs = paired_layers(3, 4, ours=FusedRNNCell)
    x = torch.randn(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = mine(x), theirs(x)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert_near(actual, expected.double(), 2 * FORWARD_EPS)  # nn.RNNCell rounds as well


def test_meta():
    cell = FusedRNNCell(3, 4, device="meta")
    assert cell(torch.empty(2, 3, device="meta")).shape == (2, 4)


def test_same_seed_same_weights_and_state_dict_both_ways():
    cells = []
    for kind in (FusedRNNCell, nn.RNNCell):
        torch.manual_seed(3)
        cells.append(kind(3, 4))
    mine, theirs = cells
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, mine.parameters(), theirs.parameters()))
    assert theirs.load_state_dict(FusedRNNCell(3, 4).state_dict()) == mine.load_state_dict(
        nn.RNNCell(3, 4).state_dict()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("hx", [True, False])
def test_cell_is_bitwise_equal_to_nn_rnn_cell(nonlinearity, dtype, hx):
    """A single step leaves nothing to fuse: the bits are the same for every backend."""
    mine, theirs = paired_layers(5, 33, nonlinearity=nonlinearity, dtype=dtype, ours=FusedRNNCell)
    assert isinstance(mine, nn.RNNCell)
    given = torch.randn(3, 5, dtype=dtype), torch.randn(3, 33, dtype=dtype)
    given = given if hx else given[:1]
    for name in ("auto", "reference"):
        with fastrnn.use_backend(name):
            assert torch.equal(mine(*given), theirs(*given))


def test_weights_that_are_not_parameters():
    mine, theirs = paired_layers(3, 4, ours=FusedRNNCell)
    x = torch.randn(2, 3)
    for cell in (mine, theirs):
        parametrize.register_parametrization(cell, "weight_hh", nn.Tanh())
        prune.l1_unstructured(cell, "weight_ih", 0.5)
        del cell.bias_hh
        cell.bias_hh = torch.ones(4)
    assert torch.equal(mine(x), theirs(x))


@pytest.mark.parametrize("kwargs", [{}, {"bias": False, "nonlinearity": "relu"}])
def test_repr_copies_and_pickles(kwargs):
    mine, theirs = paired_layers(3, 4, **kwargs, ours=FusedRNNCell)
    assert repr(mine) == "Fused" + repr(theirs)
    x = torch.randn(2, 3)
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert torch.equal(other(x), mine(x))
