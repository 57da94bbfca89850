"""Our layers match torch's: outputs, last states and every gradient."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from fastrnn import FusedGRU, FusedLSTM, FusedRNN
from fastrnn.ops._torch_private import without_onednn

from ..utils.nn_rnn_parity import (
    BACKWARD_EPS,
    FORWARD_EPS,
    TORCH,
    assert_near,
    assert_same,
    each_state,
    every_layer,
    gradients,
    options_for,
    paired_layers,
    random_hx,
    rnn_and_lstm,
    tensors,
)

CONFIGS = st.fixed_dictionaries(
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
KINDS = [*itertools.product([FusedRNN], ["tanh", "relu"]), (FusedLSTM, None), (FusedGRU, None)]
examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def initial_state(layer: nn.RNNBase, batch: tuple[int, ...], contiguous: bool) -> Any:
    """Return an hx with states [D·L, *batch, H]."""
    if contiguous:
        return random_hx(layer, *batch, requires_grad=True)
    # The transpose of a contiguous tensor.
    return each_state(
        lambda x: x.permute(*range(x.dim())[::-1]).contiguous().permute(*range(x.dim())[::-1]),
        random_hx(layer, *batch),
    )


def assert_parity(mine, theirs, x, hx, **ours) -> None:
    """Require the same results and gradients; x is a tensor or a PackedSequence."""
    leaves = [leaf.requires_grad_() for leaf in (*tensors(x), *tensors(hx))]
    actual, expected = mine(x, hx, **ours), theirs(x, hx)
    assert_same(actual, expected)
    assert_same(
        gradients(actual, [*leaves, *mine.parameters()]),
        gradients(expected, [*leaves, *theirs.parameters()]),
    )


@every_layer
@examples
@given(
    CONFIGS,
    st.integers(1, 6),
    st.integers(0, 4),
    st.sampled_from(["none", "yes", "strided"]),
    st.booleans(),
    st.booleans(),
)
def test_padded_and_unbatched(ours, config, steps, batch, hx, contiguous, unbatched):
    mine, theirs = paired_layers(**config, ours=ours, dtype=torch.float64)
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


@every_layer
@examples
@given(CONFIGS, st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_packed(ours, config, lengths, given_hx, in_order):
    mine, theirs = paired_layers(**config, ours=ours, dtype=torch.float64)
    lengths = sorted(lengths, reverse=True) if in_order else lengths
    rows = [torch.randn(n, config["input_size"], dtype=torch.float64) for n in lengths]
    x = pack_sequence(rows, enforce_sorted=in_order)
    hx = initial_state(theirs, (len(rows),), in_order) if given_hx else None
    assert_parity(mine, theirs, x, hx)
    output, _ = mine(x, hx)
    assert output.batch_sizes is x.batch_sizes
    assert output.sorted_indices is x.sorted_indices
    assert output.unsorted_indices is x.unsorted_indices


@every_layer
@examples
@given(
    CONFIGS,
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([torch.int32, torch.int64]),
)
def test_lengths_match_packing(ours, config, lengths, given_hx, dtype):
    mine, theirs = paired_layers(**config, ours=ours, dtype=torch.float64)
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


@every_layer
def test_length_0_keeps_the_state_and_lengths_are_clamped(ours):
    rnn = ours(3, 4, dtype=torch.float64)
    x, hx = torch.randn(5, 2, 3, dtype=torch.float64), random_hx(rnn, 2)
    output, h_n = rnn(x, hx, lengths=torch.tensor([0, 9]))
    assert not output[:, 0].any()
    for after, before in zip(tensors(h_n), tensors(hx), strict=True):
        assert torch.equal(after[:, 0], before[:, 0])
    second = each_state(lambda h: h[:, 1:], h_n), each_state(lambda h: h[:, 1:], hx)
    assert_same((output[:, 1:], second[0]), rnn(x[:, 1:], second[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("ours", "nonlinearity"), KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_dtypes(dtype, ours, nonlinearity, packed):
    """Compare with torch's layer in float64 on the same weights and inputs."""
    torch.manual_seed(0)
    options = options_for(ours, {"nonlinearity": nonlinearity, "bidirectional": True})
    mine = ours(5, 33, 2, **options, dtype=dtype)
    exact = TORCH[ours](5, 33, 2, **options, dtype=torch.float64)
    exact.load_state_dict(mine.state_dict())
    x = torch.randn(9, 3, 5, dtype=dtype)
    if packed:
        x = pack_padded_sequence(x, [9, 4, 1])
    hx = each_state(lambda h: h.sigmoid().to(dtype).detach().requires_grad_(), random_hx(mine, 3))
    actual = mine(x, hx)
    hx64 = each_state(lambda h: h.detach().double().requires_grad_(), hx)
    expected = exact(x.double(), hx64)
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        assert a.dtype == dtype
        assert_near(a, e, FORWARD_EPS)
    if nonlinearity == "relu" and dtype != torch.float32:
        return  # near 0, rounding changes the sign of a pre-activation and so relu's derivative
    found = gradients(actual, [*tensors(hx), *mine.parameters()])
    truth = gradients(expected, [*tensors(hx64), *exact.parameters()])
    for a, e in zip(found, truth, strict=True):
        assert_near(a, e, BACKWARD_EPS)


@every_layer
def test_complex_numbers(ours):
    mine, theirs = paired_layers(3, 4, 2, ours=ours, bidirectional=True, dtype=torch.complex128)
    x = torch.randn(5, 2, 3, dtype=torch.complex128)
    assert_same(mine(x), theirs(x))


@every_layer
@pytest.mark.parametrize("given_dtype", [torch.float32, torch.float16])
def test_autocast_dtype_does_not_depend_on_the_input(given_dtype, ours):
    mine, theirs = paired_layers(3, 4, 2, ours=ours)
    x, hx = torch.randn(5, 2, 3, dtype=given_dtype), random_hx(mine, 2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = mine(x, hx)
        with without_onednn():  # on a processor without AVX-512, nn.LSTM raises with it
            expected = theirs(x, hx)
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        # nn.LSTM and nn.GRU return float32 for float16 input, and nn.GRU for float32 too.
        assert a.dtype == torch.bfloat16
        assert ours is not FusedRNN or e.dtype == torch.bfloat16
        assert_near(a, e.double(), 2 * FORWARD_EPS)  # torch's layer rounds as well


@rnn_and_lstm
@pytest.mark.parametrize("dropout", [0.4, 1.0])
@pytest.mark.parametrize("packed", [False, True])
def test_dropout_draws_nn_rnns_masks(dropout, packed, ours):
    options = {"dropout": dropout, "bidirectional": True, "dtype": torch.float64}
    mine, theirs = paired_layers(3, 4, 3, ours=ours, **options)
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


@every_layer
def test_dropout_is_read_at_each_call_and_only_in_training(ours):
    mine, theirs = paired_layers(3, 4, 2, ours=ours, dropout=0.5, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    assert not torch.equal(mine(x)[0], mine(x)[0])
    mine.dropout = theirs.dropout = 1.0
    assert_same(mine(x), theirs(x))
    mine.dropout = 0.0
    assert torch.equal(mine(x)[0], mine.eval()(x)[0])
    mine.dropout = 0.5
    assert_same(mine(x), theirs.eval()(x))


@every_layer
def test_backward_in_eval_mode(ours):
    mine, theirs = paired_layers(3, 4, 2, ours=ours, dtype=torch.float64)
    assert_parity(mine.eval(), theirs.eval(), torch.randn(5, 2, 3, dtype=torch.float64), None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("ours", "nonlinearity"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nan_propagates_to_the_same_gradients_as_in_nn_rnn(dtype, ours, nonlinearity, value):
    for steps, bidirectional, spoilt in itertools.product((1, 3), (False, True), ("x", "hx")):
        options = {"nonlinearity": nonlinearity, "bidirectional": bidirectional, "dtype": dtype}
        mine, theirs = paired_layers(4, 3, ours=ours, **options)
        x, hx = torch.randn(steps, 2, 4, dtype=dtype), random_hx(mine, 2, dtype=dtype)
        (x if spoilt == "x" else tensors(hx)[0])[0, 0, 0] = value
        found = []
        for layer in (mine, theirs):
            inputs = x.clone(), each_state(torch.clone, hx)
            leaves = [leaf.requires_grad_() for leaf in tensors(inputs)]
            found.append(gradients(layer(*inputs), [*leaves, *layer.parameters()]))
        # The derivative of a saturated gate may be a tiny number instead of 0, and its product with
        # an infinite input infinite instead of NaN.
        spoilt_by = torch.isnan if ours is FusedRNN else lambda grad: ~grad.isfinite()
        for a, e in zip(*found, strict=True):
            assert torch.equal(spoilt_by(a), spoilt_by(e))


@every_layer
def test_outputs_are_contiguous(ours):
    for bidirectional in (False, True):
        mine, theirs = paired_layers(3, 4, ours=ours, bidirectional=bidirectional)
        x = torch.randn(5, 2, 3)
        for layer in (mine, theirs):
            assert all(result.is_contiguous() for result in tensors(layer(x)))
