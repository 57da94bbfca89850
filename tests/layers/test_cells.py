"""Our cells match torch's, and their steps match our layers."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

import fastrnn
from fastrnn import (
    FusedGRU,
    FusedGRUCell,
    FusedLSTM,
    FusedLSTMCell,
    FusedRNN,
    FusedRNNCell,
)

from ..utils.nn_rnn_parity import (
    BACKWARD_EPS,
    FORWARD_EPS,
    TORCH,
    assert_near,
    assert_same,
    each_state,
    every_cell,
    gradients,
    options_for,
    paired_layers,
    random_hx,
    tensors,
)

LAYER_OF = {FusedRNNCell: FusedRNN, FusedLSTMCell: FusedLSTM, FusedGRUCell: FusedGRU}
every_kind = pytest.mark.parametrize(
    ("ours", "nonlinearity"),
    [(FusedRNNCell, "tanh"), (FusedRNNCell, "relu"), (FusedLSTMCell, None), (FusedGRUCell, None)],
)


@every_cell
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from([1, 3, 8]),
    st.sampled_from([1, 4, 17]),
    st.booleans(),
    st.sampled_from(["tanh", "relu"]),
    st.sampled_from([(), (0,), (1,), (3,)]),
    st.booleans(),
)
def test_one_step(ours, input_size, hidden_size, bias, nonlinearity, batch, with_state):
    options = {"bias": bias, "nonlinearity": nonlinearity, "dtype": torch.float64}
    mine, theirs = paired_layers(input_size, hidden_size, **options, ours=ours)
    x = torch.randn(*batch, input_size, dtype=torch.float64, requires_grad=True)
    # Noncontiguous: every other column of a wider state.
    hx = each_state(
        lambda h: h.repeat_interleave(2, -1)[..., ::2].requires_grad_(), random_hx(mine, *batch)
    )
    given_state = [hx] if with_state else []
    actual, expected = mine(x, *given_state), theirs(x, *given_state)
    assert_same(actual, expected)
    leaves = [x, *tensors(given_state)]
    assert_same(
        gradients(actual, [*leaves, *mine.parameters()]),
        gradients(expected, [*leaves, *theirs.parameters()]),
    )


@every_kind
@pytest.mark.parametrize("bias", [True, False])
def test_stepping_the_cell_equals_the_layer(ours, nonlinearity, bias):
    options = {"bias": bias, "nonlinearity": nonlinearity, "dtype": torch.float64}
    options = options_for(ours, options)
    layer, cell = LAYER_OF[ours](3, 4, **options), ours(3, 4, **options)
    state = {name.removesuffix("_l0"): value for name, value in layer.state_dict().items()}
    cell.load_state_dict(state)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    hx, outputs = None, []
    for x_t in x:
        hx = cell(x_t, hx)
        outputs.append(tensors(hx)[0])
    stepped, run = torch.stack(outputs), layer(x)[0]
    assert_same(stepped, run)
    assert_same(gradients(stepped, cell.parameters()), gradients(run, layer.parameters()))


@every_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype, ours):
    torch.manual_seed(0)
    mine = ours(5, 33, dtype=dtype)
    exact = TORCH[ours](5, 33, dtype=torch.float64)
    exact.load_state_dict(mine.state_dict())
    x = torch.randn(3, 5, dtype=dtype)
    hx = each_state(lambda h: h.sigmoid().to(dtype), random_hx(mine, 3))
    actual, expected = mine(x, hx), exact(x.double(), each_state(torch.Tensor.double, hx))
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        assert a.dtype == dtype
        assert_near(a, e, FORWARD_EPS)
    pairs = zip(
        gradients(actual, mine.parameters()), gradients(expected, exact.parameters()), strict=True
    )
    for a, e in pairs:
        assert_near(a, e, BACKWARD_EPS)


@every_cell
def test_complex_numbers(ours):
    mine, theirs = paired_layers(3, 4, dtype=torch.complex128, ours=ours)
    x = torch.randn(2, 3, dtype=torch.complex128)
    assert_same(mine(x), theirs(x))


@every_cell
def test_autocast(ours):
    mine, theirs = paired_layers(3, 4, ours=ours)
    x = torch.randn(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = tensors(mine(x)), tensors(theirs(x))
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert_near(a, e.double(), 2 * FORWARD_EPS)  # torch's cell rounds as well


@every_cell
def test_meta(ours):
    cell = ours(3, 4, device="meta")
    assert all(h.shape == (2, 4) for h in tensors(cell(torch.empty(2, 3, device="meta"))))


@every_cell
def test_same_seed_same_weights_and_state_dict_both_ways(ours):
    cells = []
    for kind in (ours, TORCH[ours]):
        torch.manual_seed(3)
        cells.append(kind(3, 4))
    mine, theirs = cells
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, mine.parameters(), theirs.parameters()))
    assert theirs.load_state_dict(ours(3, 4).state_dict()) == mine.load_state_dict(
        TORCH[ours](3, 4).state_dict()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_kind
@pytest.mark.parametrize("hx", [True, False])
def test_cell_is_bitwise_equal_to_nn_rnn_cell(ours, nonlinearity, dtype, hx):
    """A single step leaves nothing to fuse: the bits are the same for every backend."""
    mine, theirs = paired_layers(5, 33, nonlinearity=nonlinearity, dtype=dtype, ours=ours)
    assert isinstance(mine, TORCH[ours])
    given = torch.randn(3, 5, dtype=dtype), random_hx(mine, 3, dtype=dtype)
    given = given if hx else given[:1]
    for name in ("auto", "reference"):
        with fastrnn.use_backend(name):
            actual, expected = mine(*given), theirs(*given)
        assert type(actual) is type(expected)
        assert all(map(torch.equal, tensors(actual), tensors(expected)))


@every_cell
def test_weights_that_are_not_parameters(ours):
    mine, theirs = paired_layers(3, 4, ours=ours)
    x = torch.randn(2, 3)
    for cell in (mine, theirs):
        parametrize.register_parametrization(cell, "weight_hh", nn.Tanh())
        prune.l1_unstructured(cell, "weight_ih", 0.5)
        ones = torch.ones_like(cell.bias_hh)
        del cell.bias_hh
        cell.bias_hh = ones
    assert all(map(torch.equal, tensors(mine(x)), tensors(theirs(x))))


@every_cell
@pytest.mark.parametrize("kwargs", [{}, {"bias": False, "nonlinearity": "relu"}])
def test_repr_copies_and_pickles(kwargs, ours):
    mine, theirs = paired_layers(3, 4, **kwargs, ours=ours)
    assert repr(mine) == "Fused" + repr(theirs)
    x = torch.randn(2, 3)
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert all(map(torch.equal, tensors(other(x)), tensors(mine(x))))
