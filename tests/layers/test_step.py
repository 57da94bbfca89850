"""Single steps: `step` gives the same results as a call on the whole sequence.

torch's layers have no step method. Their sequences of one step round differently from the whole
sequence.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastrnn
from fastrnn import FusedLSTM, FusedRNN, ReadoutRNN

from ..utils.expected_resets import learned
from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import (
    assert_same,
    every_layer,
    gradients,
    options_for,
    random_hx,
    rnn_and_lstm,
    tensors,
)

KINDS = [
    {},
    {"num_layers": 3, "nonlinearity": "relu", "bias": False},
    {"num_layers": 2, "num_heads": 2, "learned_h0": True, "batch_first": True},
]


def layer(*sizes: int, ours: Any = FusedRNN, **kwargs) -> Any:
    """Return a layer with nonzero learned initial states, if it has some."""
    torch.manual_seed(0)
    rnn = ours(*sizes, **options_for(ours, kwargs))
    for start in tensors(learned(rnn)) if rnn.learned_h0 else []:
        torch.nn.init.uniform_(start, -1, 1)
    return rnn


def stepped(rnn: Any, x: Tensor, hx: Any, resets: Tensor | None) -> tuple[Tensor, Any]:
    """Step through x [T, ...]; return output [T, ...] and h_n."""
    outputs = []
    for t, x_t in enumerate(x):
        output, hx = rnn.step(x_t, hx, resets=None if resets is None else resets[t])
        outputs.append(output)
    assert hx is not None
    return torch.stack(outputs), hx


def whole(rnn: Any, x: Tensor, hx: Any, resets: Tensor | None) -> tuple[Tensor, Any]:
    """Run the layer on the whole x [T, ...]; return output [T, ...] and h_n."""
    core = rnn.rnn if isinstance(rnn, ReadoutRNN) else rnn
    if not core.batch_first or x.dim() == 2:
        return rnn(x, hx, resets=resets)
    resets = resets if resets is None else resets.transpose(0, 1)
    output, h_n = rnn(x.transpose(0, 1), hx, resets=resets)
    return output.transpose(0, 1), h_n


@every_layer
@pytest.mark.parametrize("kwargs", KINDS)
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("batch", [(2,), ()])
@pytest.mark.parametrize("given_hx", [False, True])
def test_stepping_equals_forward(kwargs, with_resets, batch, given_hx, ours):
    """Outputs, states and all gradients agree."""
    rnn = layer(3, 4, ours=ours, **kwargs, dtype=torch.float64)
    x = torch.randn(6, *batch, 3, dtype=torch.float64, requires_grad=True)
    hx = random_hx(rnn, *batch, requires_grad=True)
    resets = torch.rand(6, *batch) < 0.4 if with_resets else None
    results = [f(rnn, x, hx if given_hx else None, resets) for f in (stepped, whole)]
    assert_same(*results)
    weights = [p for name, p in rnn.named_parameters() if name not in ("h0", "c0")]
    leaves = [x, *(tensors(hx) if given_hx else []), *weights]
    if rnn.learned_h0 and (with_resets or not given_hx):
        leaves += tensors(learned(rnn))
    assert_same(*(gradients(result, leaves) for result in results))


@requires_extension
@rnn_and_lstm
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(7, 1, 1, 1), (9, 3, 5, 17), (20, 1, 40, 64), (6, 33, 64, 130)])
@pytest.mark.parametrize("kwargs", KINDS)
def test_stepping_is_bitwise_equal_to_forward(sizes, dtype, kwargs, ours):
    """Stepping in production reproduces the results of training and of replayed logs."""
    steps, batch, inputs, hidden = sizes
    if hidden % kwargs.get("num_heads", 1):
        kwargs = {**kwargs, "num_heads": 1}
    rnn = layer(inputs, hidden, ours=ours, **kwargs, dtype=dtype)
    x, resets = torch.randn(steps, batch, inputs, dtype=dtype), torch.rand(steps, batch) < 0.2
    # Where oneDNN has products of bfloat16, torch's own LSTM would run the largest whole.
    with torch.no_grad(), fastrnn.use_backend("cpu"):
        for r in (None, resets):
            results = (tensors(f(rnn, x, None, r)) for f in (stepped, whole))
            assert all(map(torch.equal, *results))


@pytest.mark.parametrize("hx", [None, torch.randn(1, 2, 4)], ids=["no hx", "hx"])
def test_steps_and_short_sequences_run_our_operators(monkeypatch, hx):
    def unfused(*args):
        raise AssertionError("unfused")

    monkeypatch.setattr(torch, "rnn_tanh", unfused)
    rnn = FusedRNN(3, 4)
    x = torch.randn(2, 3)
    for recording in (False, True):
        with torch.set_grad_enabled(recording):
            output, h_n = rnn.step(x, hx)
            assert (output.grad_fn is not None) == recording
            assert torch.equal(output, rnn(x[None], hx)[0][0])
            assert torch.equal(h_n, rnn(x[None], hx)[1])


@every_layer
def test_steps_do_not_share_memory(ours):
    """A stored state does not change: no step writes into the memory of another's result."""
    rnn = ours(3, 4, 2)
    with torch.no_grad():
        output, h_n = rnn.step(torch.randn(2, 3))
        kept = [t.clone() for t in tensors((output, h_n))]
        rnn.step(torch.randn(2, 3), h_n)
        assert all(map(torch.equal, tensors((output, h_n)), kept))
        assert torch.equal(output, tensors(h_n)[0][-1])
        output.zero_()
        assert all(map(torch.equal, tensors(h_n), kept[1:]))


@rnn_and_lstm
def test_dropout_in_training(ours):
    rnn = layer(3, 8, ours=ours, num_layers=2, dropout=0.5, dtype=torch.float64)
    x = torch.randn(2, 3, dtype=torch.float64)
    results = []
    for run in (rnn.step, lambda x: rnn(x[None])):
        torch.manual_seed(1)
        results.append(run(x))
    assert_same(results[0], (results[1][0][0], results[1][1]))
    assert not torch.equal(rnn.step(x)[0], rnn.step(x)[0])
    rnn.eval()
    assert torch.equal(rnn.step(x)[0], rnn.step(x)[0])


@pytest.mark.parametrize("steps", ["all", "last"])
def test_readout(steps):
    torch.manual_seed(0)
    net = ReadoutRNN(3, 4, 2, num_layers=2, steps=steps, dtype=torch.float64)
    x, resets = torch.randn(6, 2, 3, dtype=torch.float64), torch.rand(6, 2) < 0.3
    y, h_n = stepped(net, x, None, resets)
    expected, expected_h_n = whole(net, x, None, resets)
    assert_same((y if steps == "all" else y[-1], h_n), (expected, expected_h_n))


@rnn_and_lstm
def test_compiled(ours):
    rnn = layer(3, 4, ours=ours, num_heads=2, learned_h0=True, dtype=torch.float64)
    step = torch.compile(rnn.step, fullgraph=True, backend="eager")
    x, hx = torch.randn(2, 3, dtype=torch.float64), random_hx(rnn, 2)
    resets = torch.tensor([True, False])
    assert_same(step(x, hx, resets=resets), rnn.step(x, hx, resets=resets))


X, HX = torch.randn(2, 3), torch.randn(1, 2, 4)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda r: r.step(X[0, 0]), ValueError, r"expected input \[B, I\] or \[I\], got 0D"),
        (lambda r: r.step(X[None]), ValueError, r"expected input \[B, I\] or \[I\], got 3D"),
        (lambda r: r.step(X, HX[0]), ValueError, "for 2-D input, hx should be 3-D but got 2-D"),
        (lambda r: r.step(X[0], HX), ValueError, "for 1-D input, hx should be 2-D but got 3-D"),
        (
            lambda r: r.step(X.double()),
            ValueError,
            "does not match weight dtype|must have the type",
        ),
        (lambda r: r.step(X, resets=X[:, :1] > 0), ValueError, r"bool tensor of shape \[2\]"),
        (lambda r: r.step(X, resets=X[:, 0]), ValueError, r"bool tensor of shape \[2\]"),
        (lambda r: r.step(X, resets=True), ValueError, r"bool tensor of shape \[2\].* got bool"),
        (lambda r: r.step(X[0], resets=X[:1, 0] > 0), ValueError, r"bool tensor of shape \[\]"),
        (lambda r: r.step(X[:, :2]), RuntimeError, "must be equal to input_size. Expected 3"),
        (lambda r: r.step(X, HX[:, :1]), RuntimeError, r"Expected hidden size \(1, 2, 4\)"),
        (lambda r: r.step(X, HX.to("meta")), RuntimeError, "not at the same device"),
        (lambda r: r.step(X, HX.double()), RuntimeError, "not the same dtype"),
    ],
)
def test_invalid_arguments(call, kind, words):
    with pytest.raises(kind, match=words):
        call(FusedRNN(3, 4))


@pytest.mark.parametrize(
    ("hx", "kind", "words"),
    [
        ((HX, HX[0]), ValueError, r"hx and cx should be 3-D but got \(3-D, 2-D\) tensors"),
        ((HX, HX[:, :1]), RuntimeError, r"Expected hidden\[1\] size \(1, 2, 4\)"),
        ((HX, HX.double()), RuntimeError, "not the same dtype"),
        ((HX,) * 3, RuntimeError, "lstm expects two hidden states"),
        (HX, IndexError, "out of bounds"),
    ],
)
def test_invalid_states_of_an_lstm(hx, kind, words):
    with pytest.raises(kind, match=words):
        FusedLSTM(3, 4).step(X, hx)


@every_layer
def test_a_bidirectional_layer_has_no_single_steps(ours):
    with pytest.raises(ValueError, match="all later steps: call it with the whole sequence"):
        ours(3, 4, bidirectional=True).step(X)
