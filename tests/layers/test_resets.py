"""Resets: a row holds several independent sequences.

torch's layers have no resets. Training on episodes there needs a Python loop over a cell, or split
and padded rows.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn
from fastrnn import FusedRNN, ReadoutRNN, _checks, functional

from ..utils.expected_resets import learned, run, run_separately
from ..utils.nn_rnn_parity import (
    BACKWARD_EPS,
    FORWARD_EPS,
    assert_near,
    assert_same,
    each_state,
    every_layer,
    gradients,
    options_for,
    random_hx,
    rnn_and_lstm,
    tensors,
)

T, B, H = 6, 3, 4
CONFIGS = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 2),
        "nonlinearity": st.sampled_from(["tanh", "relu"]),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
        "num_heads": st.sampled_from([1, 2]),
        "learned_h0": st.booleans(),
    }
)


def layer(ours=FusedRNN, **kwargs):
    """Return a float64 layer with nonzero learned initial states, if it has some."""
    torch.manual_seed(0)
    rnn = ours(3, H, **options_for(ours, kwargs), dtype=torch.float64)
    if rnn.learned_h0:
        for start in tensors(learned(rnn)):
            torch.nn.init.normal_(start)
    return rnn


def inputs(rnn):
    """Return x [T, B, I] and hx, states [D·L, B, H], which require gradients."""
    x = torch.randn(T, B, 3, dtype=torch.float64, requires_grad=True)
    return x, random_hx(rnn, B, requires_grad=True)


@every_layer
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    CONFIGS,
    st.sampled_from(["dense", "padded", "sorted", "unsorted"]),
    st.lists(st.integers(0, T), min_size=B, max_size=B),
    st.sampled_from([0.2, 0.5, 1.0]),
    st.booleans(),
)
def test_sequences_of_a_row_are_independent(ours, config, kind, lengths, often, given_hx):
    """Outputs, last states and all gradients match torch on each sequence, in every layout."""
    if kind == "dense":
        lengths = [T] * B
    elif kind != "padded":
        lengths = [max(length, 1) for length in lengths]  # torch cannot pack rows of length 0
    if kind == "sorted":
        lengths.sort(reverse=True)
    rnn = layer(ours, **config)
    x, hx = inputs(rnn)
    resets = torch.rand(T, B) < often
    start = learned(rnn) if rnn.learned_h0 else each_state(lambda h: torch.zeros_like(h[:, 0]), hx)
    initial = hx if given_hx else each_state(lambda h: h[:, None].expand(-1, B, -1), start)
    expected = run_separately(rnn, x, initial, start, resets, lengths)
    actual = run(rnn, kind, x, hx if given_hx else None, resets, lengths)
    assert_same(actual, expected)
    leaves = [x, *(tensors(hx) if given_hx else []), *rnn.parameters()]
    with torch.no_grad():  # outputs overwrite the pre-activations
        assert_same(run(rnn, kind, x, hx if given_hx else None, resets, lengths), actual)
    # The zeros make every leaf part of the graph, even a learned state that hx replaces.
    both = (
        gradients((result, [0 * leaf for leaf in leaves]), leaves) for result in (actual, expected)
    )
    assert_same(*both)


@every_layer
@pytest.mark.parametrize("learned_h0", [False, True])
def test_one_sequence_and_the_reference(learned_h0, ours):
    rnn = layer(ours, bidirectional=True, learned_h0=learned_h0)
    x, hx = inputs(rnn)
    resets = torch.rand(T, B) < 0.5
    expected = rnn(x, hx, resets=resets)
    for b in range(B):
        row, of_row = ((a[:, b], each_state(lambda h: h[:, b], c)) for a, c in ((x, hx), expected))  # noqa: B023
        assert_same(rnn(*row, resets=resets[:, b]), of_row)
    with fastrnn.use_backend("reference"):
        assert_same(rnn(x, hx, resets=resets), expected)


@every_layer
def test_no_gradient_crosses_a_reset(ours):
    """No gradient passes a reset, in either direction or layer, including gradients of hx."""
    rnn = layer(ours, num_layers=2, bidirectional=True)
    x, *hx = (t.detach() for t in tensors(inputs(rnn)))
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[3, 0] = resets[0, 1] = True

    def by_step(x, *hx):  # [T, B]
        output, _ = rnn(x, hx if len(hx) > 1 else hx[0], resets=resets)
        return (output * torch.arange(1, 9)).sum(-1)

    by_x, *by_hx = torch.autograd.functional.jacobian(by_step, (x, *hx))
    for t, s, row in itertools.product(range(T), range(T), range(B)):
        cut = row == 0 and (t < 3) != (s < 3)
        assert by_x[t, row, s, row].any() != cut
    # The second layer's initial states affect only a row's first sequence in their direction.
    for by_state in by_hx:
        reached = by_state[:, :, 2:].any(-1).diagonal(dim1=1, dim2=3)  # [T, 2, B]
        assert reached[:, 0].T.tolist() == [[True] * 3 + [False] * 3, [False] * T, [True] * T]
        assert reached[:, 1].T.tolist() == [[False] * 3 + [True] * 3, [True] * T, [True] * T]


@every_layer
def test_resets_of_padding_have_no_effect(ours):
    rnn = layer(ours, num_layers=2, bidirectional=True, learned_h0=True)
    x, hx = inputs(rnn)
    lengths = torch.tensor([4, 0, 2])
    resets = torch.rand(T, B) < 0.5
    padding = torch.arange(T)[:, None] >= lengths
    both = resets | padding, resets & ~padding
    results = [tensors(rnn(x, hx, lengths=lengths, resets=given)) for given in both]
    assert all(map(torch.equal, *results))


@every_layer
def test_all_false_resets_change_nothing(ours):
    rnn = layer(ours, num_layers=2, bidirectional=True, learned_h0=True)
    x, hx = inputs(rnn)
    results = [tensors(rnn(x, hx, resets=resets)) for resets in (torch.zeros(T, B).bool(), None)]
    assert all(map(torch.equal, *results))


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("learned_h0", [False, True])
def test_dtypes(dtype, learned_h0, ours):
    """Compare with float64 on the same numbers. The start of a sequence adds one rounding."""
    options = {"bidirectional": True, "num_heads": 2, "learned_h0": learned_h0}
    rnn = ours(3, 32, 2, **options, dtype=dtype)
    for start in tensors(learned(rnn)) if learned_h0 else []:
        torch.nn.init.uniform_(start, -1, 1)
    exact = ours(3, 32, 2, **options, dtype=torch.float64)
    exact.load_state_dict(rnn.state_dict())
    x, resets = torch.randn(T, B, 3, dtype=dtype), torch.rand(T, B) < 0.3
    actual, expected = rnn(x, resets=resets), exact(x.double(), resets=resets)
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        assert a.dtype == dtype
        assert_near(a, e, FORWARD_EPS + 2)
    pairs = gradients(actual, rnn.parameters()), gradients(expected, exact.parameters())
    for a, e in zip(*pairs, strict=True):
        assert_near(a, e, BACKWARD_EPS + 2)


@rnn_and_lstm
def test_autocast(ours):
    rnn = ours(3, H, 2, num_heads=2, learned_h0=True)
    x, resets = torch.randn(T, B, 3), torch.rand(T, B) < 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = rnn(x, resets=resets)
    assert output.dtype == torch.bfloat16
    assert_near(output, rnn(x, resets=resets)[0].double(), 2 * FORWARD_EPS)


@every_layer
def test_complex_numbers(ours):
    rnn = ours(3, H, 2, num_heads=2, learned_h0=True, dtype=torch.complex128)
    for start in tensors(learned(rnn)):
        torch.nn.init.normal_(start)
    x = torch.randn(T, B, 3, dtype=torch.complex128)
    every_step_alone = rnn(x, resets=torch.ones(T, B).bool())[0]
    assert_same(every_step_alone[3], rnn(x[3:4])[0][0])


@pytest.mark.parametrize("steps", ["all", "last"])
def test_readout(steps):
    torch.manual_seed(0)
    net = ReadoutRNN(
        3, H, 2, steps=steps, num_heads=2, learned_h0=True, bidirectional=True, dtype=torch.float64
    )
    assert (net.rnn.num_heads, net.rnn.learned_h0) == (2, True)
    x, resets = torch.randn(T, B, 3, dtype=torch.float64), torch.rand(T, B) < 0.5
    output, h_n = net.rnn(x, resets=resets)
    features = output if steps == "all" else torch.cat((h_n[0], h_n[1]), -1)
    assert_same(net(x, resets=resets), (net.readout(features), h_n))


@pytest.mark.slow
@rnn_and_lstm
def test_compiled_and_exported(ours):
    """One unbroken graph serves every number of steps, with the same gradients."""
    rnn = layer(ours, bidirectional=True, num_heads=2, learned_h0=True)
    lengths = torch.tensor([4, 2, 3])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(rnn, fullgraph=True, dynamic=True, backend=counter)
    for steps in (4, 7):
        x, resets = torch.randn(steps, B, 3, dtype=torch.float64), torch.rand(steps, B) < 0.5
        actual, expected = (f(x, lengths=lengths, resets=resets) for f in (compiled, rnn))
        assert_same(actual, expected)
        assert_same(*(gradients(result, rnn.parameters()) for result in (actual, expected)))
        if steps == 4:
            frames = counter.frame_count
    assert counter.frame_count == frames
    exported = torch.export.export(rnn, (x,), {"lengths": lengths, "resets": resets})
    assert_same(exported.module()(x, lengths=lengths, resets=resets), expected)


X = torch.randn(T, 2, 3)
SEQUENCES = pack_padded_sequence(X, [T, 2], enforce_sorted=False)
ONES = torch.ones(T, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("x", "wrong", "shape"),
    [
        (X, ONES.mT, r"\[6, 2\]"),
        (X, ONES[:, 0], r"\[6, 2\]"),
        (X, ONES.int(), r"\[6, 2\]"),
        (X, ONES.to("meta"), r"\[6, 2\]"),
        (X, [[True, False]] * T, r"\[6, 2\]"),
        (X, pack_padded_sequence(ONES, [T, 2]), r"\[6, 2\]"),
        (X[:, 0], ONES, r"\[6\]"),
        (SEQUENCES, SEQUENCES._replace(data=torch.ones(8)), r"\[8\]"),
        (SEQUENCES, SEQUENCES._replace(data=torch.ones(9).bool()), r"\[8\]"),
    ],
)
def test_invalid_arguments(x, wrong, shape):
    with pytest.raises(ValueError, match=rf"resets must be a torch.bool tensor of shape {shape}"):
        FusedRNN(3, H)(x, resets=wrong)
    if isinstance(wrong, torch.Tensor) and wrong.dim() == 2 and x.dim() == 3:
        with pytest.raises(ValueError, match=r"must be a .* tensor of shape"):
            FusedRNN(3, H, batch_first=True)(x.transpose(0, 1), resets=wrong.T)
        weights = list(FusedRNN(3, H).parameters())
        with pytest.raises(ValueError, match=r"must be a .* tensor of shape"):
            functional.rnn(x, None, weights, resets=wrong)


def test_packed_input_requires_identically_packed_resets():
    """The order of rows is compared too. Otherwise resets would silently apply to other rows."""
    rnn = FusedRNN(3, H)
    with pytest.raises(ValueError, match=r"must be a PackedSequence of bools.* got Tensor"):
        rnn(SEQUENCES, resets=ONES)
    for lengths, in_order in (([T, 3], False), ([2, T], False), ([T, 2], True), ([5, 2], False)):
        wrong = pack_padded_sequence(ONES, lengths, enforce_sorted=in_order)
        with pytest.raises(ValueError, match="resets must be packed as input is"):
            rnn(SEQUENCES, resets=wrong)
    # Compiled code, like a GPU, compares asynchronously and fails afterwards.
    compiled = torch.compile(_checks.packed_resets, fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="resets must be packed as input is"):
        compiled(pack_padded_sequence(ONES, [2, T], enforce_sorted=False), SEQUENCES)
    right = pack_padded_sequence(ONES, [T, 2], enforce_sorted=False)
    assert torch.equal(compiled(right, SEQUENCES), right.data)
    assert right.data.dtype == torch.bool
    every_step_alone = rnn(SEQUENCES.data.unsqueeze(0))[0].squeeze(0)
    torch.testing.assert_close(rnn(SEQUENCES, resets=right)[0].data, every_step_alone)


def test_packed_resets_are_checked_without_synchronization():
    """Meta tensors have no values to read."""
    rnn = FusedRNN(3, H, device="meta")
    x, resets = (
        PackedSequence(s.data.to("meta"), s.batch_sizes, *(t.to("meta") for t in s[2:]))
        for s in (SEQUENCES, pack_padded_sequence(ONES, [T, 2], enforce_sorted=False))
    )
    assert rnn(x, resets=resets)[0].data.shape == (8, H)
