"""FusedRNN matches nn.RNN: outputs, last states and every gradient."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from fastrnn import FusedRNN

from ..utils.nn_rnn_parity import (
    BACKWARD_EPS,
    FORWARD_EPS,
    assert_near,
    assert_same,
    gradients,
    paired_layers,
    tensors,
)

LAYERS = st.fixed_dictionaries(
    {
        "input_size": st.sampled_from([1, 2, 5, 8]),
        "hidden_size": st.sampled_from([1, 3, 4, 17]),
        "num_layers": st.integers(1, 3),
        "nonlinearity": st.sampled_from(["tanh", "relu"]),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
    }
)
examples = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def initial_state(layer: nn.RNNBase, batch: tuple[int, ...], contiguous: bool) -> Tensor:
    """Return a state [D·L, *batch, H]."""
    size = (layer.num_layers * (2 if layer.bidirectional else 1), *batch, layer.hidden_size)
    if contiguous:
        return torch.randn(size, dtype=torch.float64, requires_grad=True)
    return torch.randn(size[::-1], dtype=torch.float64).permute(*range(len(size))[::-1])


def assert_parity(mine, theirs, x, hx, **ours) -> None:
    """Require the same results and gradients; x is a tensor or a PackedSequence."""
    leaves = [leaf.requires_grad_() for leaf in (*tensors(x), *tensors(() if hx is None else hx))]
    actual, expected = mine(x, hx, **ours), theirs(x, hx)
    assert_same(actual, expected)
    assert_same(
        gradients(actual, [*leaves, *mine.parameters()]),
        gradients(expected, [*leaves, *theirs.parameters()]),
    )


@examples
@given(
    LAYERS,
    st.integers(1, 6),
    st.integers(0, 4),
    st.sampled_from(["none", "yes", "strided"]),
    st.booleans(),
    st.booleans(),
)
def test_padded_and_unbatched(config, steps, batch, hx, contiguous, unbatched):
    mine, theirs = paired_layers(**config, dtype=torch.float64)
    size = (steps, config["input_size"]) if unbatched else (steps, batch, config["input_size"])
    if config["batch_first"] and not unbatched:
        size = (batch, steps, config["input_size"])
    x = torch.randn(size, dtype=torch.float64)
    if not contiguous:
        x = torch.randn((*size[:-1], 2 * size[-1]), dtype=torch.float64)[..., ::2]
    state = None
    if hx != "none":
        state = initial_state(theirs, () if unbatched else (batch,), hx == "yes")
    assert_parity(mine, theirs, x, state)


@examples
@given(LAYERS, st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_packed(config, lengths, given_hx, in_order):
    mine, theirs = paired_layers(**config, dtype=torch.float64)
    lengths = sorted(lengths, reverse=True) if in_order else lengths
    rows = [torch.randn(n, config["input_size"], dtype=torch.float64) for n in lengths]
    x = pack_sequence(rows, enforce_sorted=in_order)
    hx = initial_state(theirs, (len(rows),), in_order) if given_hx else None
    assert_parity(mine, theirs, x, hx)
    output, _ = mine(x, hx)
    assert output.batch_sizes is x.batch_sizes
    assert output.sorted_indices is x.sorted_indices
    assert output.unsorted_indices is x.unsorted_indices


@examples
@given(
    LAYERS,
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([torch.int32, torch.int64]),
)
def test_lengths_match_packing(config, lengths, given_hx, dtype):
    mine, theirs = paired_layers(**config, dtype=torch.float64)
    steps, batch, batch_first = 6, len(lengths), config["batch_first"]
    size = (batch, steps) if batch_first else (steps, batch)
    x = torch.randn(*size, config["input_size"], dtype=torch.float64, requires_grad=True)
    hx = initial_state(theirs, (batch,), True) if given_hx else None

    class Packed(nn.Module):
        def forward(self, x, hx):
            packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
            output, h_n = theirs(packed, hx)
            return pad_packed_sequence(output, batch_first, total_length=steps)[0], h_n

        def parameters(self):
            return theirs.parameters()

    assert_parity(mine, Packed(), x, hx, lengths=torch.tensor(lengths, dtype=dtype))


def test_length_0_keeps_the_state_and_lengths_are_clamped():
    rnn = FusedRNN(3, 4, dtype=torch.float64)
    x, hx = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(1, 2, 4, dtype=torch.float64)
    output, h_n = rnn(x, hx, lengths=torch.tensor([0, 9]))
    assert not output[:, 0].any()
    assert torch.equal(h_n[:, 0], hx[:, 0])
    assert_same((output[:, 1:], h_n[:, 1:]), rnn(x[:, 1:], hx[:, 1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("packed", [False, True])
def test_dtypes(dtype, nonlinearity, packed):
    """Compare with nn.RNN in float64 on the same weights and inputs."""
    torch.manual_seed(0)
    mine = FusedRNN(5, 33, 2, nonlinearity, bidirectional=True, dtype=dtype)
    exact = nn.RNN(5, 33, 2, nonlinearity, bidirectional=True, dtype=torch.float64)
    exact.load_state_dict(mine.state_dict())
    x = torch.randn(9, 3, 5, dtype=dtype)
    if packed:
        x = pack_padded_sequence(x, [9, 4, 1])
    hx = torch.rand(4, 3, 33, dtype=dtype).requires_grad_()
    actual = mine(x, hx)
    hx64 = hx.detach().double().requires_grad_()
    expected = exact(x.double(), hx64)
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        assert a.dtype == dtype
        assert_near(a, e, FORWARD_EPS)
    if nonlinearity == "relu" and dtype != torch.float32:
        return  # near 0, rounding changes the sign of a pre-activation and so relu's derivative
    ours = gradients(actual, [hx, *mine.parameters()])
    for a, e in zip(ours, gradients(expected, [hx64, *exact.parameters()]), strict=True):
        assert_near(a, e, BACKWARD_EPS)


def test_complex_numbers():
    mine, theirs = paired_layers(3, 4, 2, bidirectional=True, dtype=torch.complex128)
    x = torch.randn(5, 2, 3, dtype=torch.complex128)
    assert_same(mine(x), theirs(x))


@pytest.mark.parametrize("given_dtype", [torch.float32, torch.float16])
def test_autocast_dtype_does_not_depend_on_the_input(given_dtype):
    mine, theirs = paired_layers(3, 4, 2)
    x, hx = torch.randn(5, 2, 3, dtype=given_dtype), torch.randn(2, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = mine(x, hx), theirs(x, hx)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype == torch.bfloat16
        assert_near(a, e.double(), 2 * FORWARD_EPS)  # nn.RNN rounds as well


@pytest.mark.parametrize("dropout", [0.4, 1.0])
@pytest.mark.parametrize("packed", [False, True])
def test_dropout_draws_nn_rnns_masks(dropout, packed):
    mine, theirs = paired_layers(3, 4, 3, dropout=dropout, bidirectional=True, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    if packed:
        x = pack_padded_sequence(x, [5, 2])
    results = []
    for layer in (mine, mine, theirs):
        torch.manual_seed(7)
        result = layer(x)
        results.append((*tensors(result), *gradients(result, layer.parameters())))
    assert all(map(torch.equal, results[0], results[1]))
    assert_same(results[0], results[2])


def test_dropout_is_read_at_each_call_and_only_in_training():
    mine, theirs = paired_layers(3, 4, 2, dropout=0.5, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    assert not torch.equal(mine(x)[0], mine(x)[0])
    mine.dropout = theirs.dropout = 1.0
    assert_same(mine(x), theirs(x))
    mine.dropout = 0.0
    assert torch.equal(mine(x)[0], mine.eval()(x)[0])
    mine.dropout = 0.5
    assert_same(mine(x), theirs.eval()(x))


def test_backward_in_eval_mode():
    mine, theirs = paired_layers(3, 4, 2, dtype=torch.float64)
    assert_parity(mine.eval(), theirs.eval(), torch.randn(5, 2, 3, dtype=torch.float64), None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nan_propagates_to_the_same_gradients_as_in_nn_rnn(dtype, nonlinearity, value):
    for steps, bidirectional, spoilt in itertools.product((1, 3), (False, True), ("x", "hx")):
        mine, theirs = paired_layers(
            4, 3, nonlinearity=nonlinearity, bidirectional=bidirectional, dtype=dtype
        )
        x, hx = torch.randn(steps, 2, 4, dtype=dtype), torch.randn(1 + bidirectional, 2, 3)
        hx = hx.to(dtype)
        (x if spoilt == "x" else hx)[0, 0, 0] = value
        found = []
        for layer in (mine, theirs):
            inputs = x.clone().requires_grad_(), hx.clone().requires_grad_()
            found.append(gradients(layer(*inputs), [*inputs, *layer.parameters()]))
        for a, e in zip(*found, strict=True):
            assert torch.equal(a.isnan(), e.isnan())


def test_outputs_are_contiguous():
    for bidirectional in (False, True):
        mine, theirs = paired_layers(3, 4, bidirectional=bidirectional)
        x = torch.randn(5, 2, 3)
        for layer in (mine, theirs):
            output, h_n = layer(x)
            assert output.is_contiguous()
            assert h_n.is_contiguous()
