"""Per-sample gradients by torch's expanded weights (Opacus's "ew" mode) match torch's layers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_sequence

from fastrnn import FusedGRUCell, FusedLSTM, FusedLSTMCell, FusedRNNCell, ReadoutRNN

from ..utils.nn_rnn_parity import (
    BACKWARD_EPS,
    assert_near,
    assert_same,
    each_state,
    every_layer,
    options_for,
    paired_layers,
    random_hx,
    rnn_and_lstm,
    tensors,
)

B, T, INPUTS, H = 3, 5, 4, 6


def per_sample(module: nn.Module, *args: Any, **options: Any) -> dict[str, Tensor]:
    """Return per-sample gradients of a sum of the outputs with distinct weights."""
    output = call_for_per_sample_grads(module, **options)(*args)
    output = output[0] if isinstance(output, tuple) else output
    data = getattr(output, "data", output) if not isinstance(output, Tensor) else output
    (data * torch.linspace(-1, 1, data.numel(), dtype=data.dtype).view(data.shape)).sum().backward()
    return {
        name: p.grad_sample  # type: ignore[attr-defined]
        for name, p in module.named_parameters()
        if p.requires_grad
    }


@every_layer
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"bias": False, "nonlinearity": "relu"},
        {"num_layers": 2, "dropout": 0.5},
    ],
)
def test_layers(options, batch_first, ours):
    results = []
    options = {**options, "batch_first": batch_first, "dtype": torch.float64}
    for layer in paired_layers(INPUTS, H, ours=ours, **options):
        torch.manual_seed(0)
        x = torch.randn(*(B, T) if batch_first else (T, B), INPUTS, dtype=torch.float64)
        results.append(per_sample(layer, x, batch_first=batch_first))
    assert all(g.shape[0] == B for g in results[0].values())
    assert_same(*results)


@every_layer
def test_float32_as_float64(ours):
    """nn.LSTM raises here, because it calls oneDNN."""
    mine, theirs = paired_layers(INPUTS, H, ours=ours, batch_first=True)
    x = torch.randn(B, T, INPUTS)
    found = per_sample(mine, x)
    expected = per_sample(theirs.double(), x.double())
    for name, gradient in found.items():
        assert_near(gradient, expected[name], BACKWARD_EPS)
    if ours is FusedLSTM:
        with pytest.raises(RuntimeError, match="mkldnn_rnn_layer"):
            per_sample(nn.LSTM(INPUTS, H, batch_first=True), x)


@every_layer
@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_and_a_state(steps, ours):
    x = torch.randn(steps, B, INPUTS, dtype=torch.float64)
    pair = paired_layers(INPUTS, H, ours=ours, dtype=torch.float64)
    hx = random_hx(pair[0], B)
    assert_same(*(per_sample(layer, x, hx, batch_first=False) for layer in pair))


@rnn_and_lstm
def test_some_weights_are_frozen(ours):
    results = []
    for layer in paired_layers(INPUTS, H, ours=ours, dtype=torch.float64):
        layer.weight_ih_l0.requires_grad_(False)
        x = torch.linspace(-1, 1, B * T * INPUTS, dtype=torch.float64).view(B, T, INPUTS)
        layer.batch_first = True
        results.append(per_sample(layer, x))
    assert "weight_ih_l0" not in results[0]
    assert_same(*results)


@every_layer
def test_a_packed_sequence(ours):
    data = torch.linspace(-1, 1, B * T * INPUTS, dtype=torch.float64).view(B, T, INPUTS)
    packed = pack_sequence([data[0], data[1, :3], data[2, :1]])
    pair = paired_layers(INPUTS, H, ours=ours, dtype=torch.float64)
    assert_same(*(per_sample(layer, packed, batch_size=B) for layer in pair))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("ours", "nonlinearity"),
    [(FusedRNNCell, "tanh"), (FusedRNNCell, "relu"), (FusedLSTMCell, None), (FusedGRUCell, None)],
)
def test_the_cell(bias, ours, nonlinearity):
    """nn.RNNCell raises "cannot handle function rnn_tanh_cell", so compare sample by sample."""
    options = {"bias": bias, "nonlinearity": nonlinearity, "dtype": torch.float64}
    cell = ours(INPUTS, H, **options_for(ours, options))
    x, hx = torch.randn(B, INPUTS, dtype=torch.float64), random_hx(cell, B)
    actual = per_sample(cell, x, hx)
    weight = torch.linspace(-1, 1, B * H, dtype=torch.float64).view(B, H)
    for b in range(B):
        h = tensors(cell(x[b], each_state(lambda h: h[b], hx)))[0]  # noqa: B023
        loss = (h * weight[b]).sum()
        expected = torch.autograd.grad(loss, list(cell.parameters()))
        assert_same([g[b] for g in actual.values()], list(expected))


def test_a_readout():
    net = ReadoutRNN(INPUTS, H, 2, batch_first=True, dtype=torch.float64)
    x = torch.randn(B, T, INPUTS, dtype=torch.float64)
    actual = per_sample(net, x)
    weight = torch.linspace(-1, 1, B * T * 2, dtype=torch.float64).view(B, T, 2)
    for b in range(B):
        loss = (net(x[b : b + 1])[0] * weight[b]).sum()
        expected = torch.autograd.grad(loss, list(net.parameters()))
        assert_same([g[b] for g in actual.values()], list(expected))


@rnn_and_lstm
@pytest.mark.parametrize(
    ("options", "given", "what"),
    [
        ({"num_heads": 2}, {}, "num_heads"),
        ({"learned_h0": True}, {}, "learned_h0"),
        ({}, {"lengths": torch.tensor([5, 4, 1])}, "lengths"),
        ({}, {"resets": torch.zeros(B, T, dtype=torch.bool)}, "resets"),
    ],
)
def test_features_that_nn_rnn_lacks_raise(options, given, what, ours):
    rnn = ours(INPUTS, H, batch_first=True, **options)
    call = call_for_per_sample_grads(rnn, batch_size=B)
    with pytest.raises(
        RuntimeError, match=f"expanded weights do not support {what}: compute .*torch.func"
    ):
        call(torch.randn(B, T, INPUTS), **given)
