"""torch.utils.flop_counter counts our layers like nn.RNN, also with activation checkpoints."""

import subprocess
import sys

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fastrnn
from fastrnn import FusedRNN, functional

from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import assert_same, paired_layers

T, B, I, H = 6, 3, 4, 8  # noqa: E741

pytestmark = requires_extension


def flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("steps", [1, 2, T])
@pytest.mark.parametrize("kwargs", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False}])
def test_counts_match_nn_rnn(kwargs, steps):
    counts = []
    for layer in paired_layers(I, H, **kwargs):
        x = torch.randn(steps, B, I, requires_grad=True)
        output = []
        forward = flops(lambda x=x, layer=layer, output=output: output.extend(layer(x)))
        counts.append((forward, flops(output[0].sum().backward)))
    assert counts[0] == counts[1]
    if not kwargs:
        assert counts[0][0] == 2 * steps * B * H * (I + H)


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_every_backend_counts(name):
    rnn, x = FusedRNN(I, H), torch.randn(T, B, I)
    with fastrnn.use_backend(name):
        assert flops(lambda: rnn(x)) == 2 * T * B * H * (I + H)


def test_packed_rows_count_once():
    mine, theirs = paired_layers(I, H)
    packed = pack_padded_sequence(torch.randn(T, B, I), torch.tensor([6, 3, 1]))
    assert flops(lambda: mine(packed)) == flops(lambda: theirs(packed)) == 2 * 10 * H * (I + H)


@pytest.mark.parametrize(("mode", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_every_gate_counts(mode, gates):
    """torch's counter does not know oneDNN's LSTM, so the formula is the expectation."""
    layer = getattr(torch.nn, mode)(I, H)
    x, output = torch.randn(T, B, I, requires_grad=True), []
    stack = getattr(functional, mode.lower())
    forward = flops(lambda: output.append(stack(x, None, list(layer.parameters()))[0]))
    backward = flops(output[0].sum().backward)
    per_product = 2 * T * B * gates * H
    assert forward == per_product * (I + H)
    # The layer's node skips the product of the first step with an initial state of zeros.
    assert backward in [2 * per_product * (I + H), 2 * per_product * (I + H) - per_product * H // T]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_checkpoint_recomputes_the_same_with_and_without_a_mode(where):
    rnn = FusedRNN(I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(rnn(x)[0].square().sum(), [x, *rnn.parameters()])

    def forward():
        return checkpoint(lambda x: rnn(x)[0], x, use_reentrant=False).square().sum()

    def backward(loss):
        loss.backward()
        return [x.grad, *(parameter.grad for parameter in rnn.parameters())]

    if where == "forward":
        with FlopCounterMode(display=False):
            loss = forward()
        gradients = backward(loss)
    else:
        loss = forward()
        with FlopCounterMode(display=False):
            gradients = backward(loss)
    assert_same(gradients, expected)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["fastrnn", "torch.utils.flop_counter"])
def test_import_order_does_not_matter(first):
    """`import fastrnn` does not import Triton, although torch's counter does."""
    code = f"""
import sys, torch, {first}
assert "triton" not in sys.modules or "{first}" != "fastrnn"
import fastrnn
from torch.utils.flop_counter import flop_registry
assert torch.ops.fastrnn.recurrence in flop_registry
assert torch.ops.fastrnn.recurrence_backward in flop_registry
"""
    subprocess.run([sys.executable, "-c", code], check=True)
