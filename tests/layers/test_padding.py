"""Padding beyond a row's length affects no result and no gradient."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp

import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedRNN, ReadoutRNN, functional
from fastrnn.ops.backends import cpu

from ..utils.nn_rnn_parity import (
    assert_same,
    each_state,
    every_layer,
    options_for,
    random_hx,
    tensors,
)

T, B, I, H = 5, 4, 3, 4  # noqa: E741
LENGTHS = torch.tensor([3, 5, 0, 1])
ACTIVE = torch.arange(T)[:, None] < LENGTHS
BACKENDS = ["reference"] + (["cpu"] if cpu.EXTENSION.unavailable_reason is None else [])
KINDS = [
    {},
    {"bidirectional": True, "num_layers": 2},
    {"nonlinearity": "relu", "batch_first": True},
    {"num_heads": 2, "learned_h0": True, "dropout": 0.5, "num_layers": 2},
]


CASES = [
    *itertools.product(BACKENDS, [FusedRNN], KINDS),
    *itertools.product(BACKENDS, [FusedLSTM, FusedGRU], KINDS[1::2]),
]


def filled(x: Tensor, value: float) -> Tensor:
    """Return x [T, B, ...] with `value` beyond each row's length."""
    return x.where(ACTIVE[..., None], value)


def results(layer, x: Tensor, hx: Any, resets: Tensor | None, target: Tensor) -> list[Tensor]:
    """Return outputs, first gradients and gradients of their squared norm.

    The loss includes the padding, as the squared difference from a target with the same bad values.
    """
    torch.manual_seed(0)  # for dropout
    first = layer.batch_first
    x = x.detach().requires_grad_()
    hx = each_state(lambda h: h.detach().requires_grad_(), hx)
    output, h_n = layer(
        x.transpose(0, 1) if first else x,
        hx,
        lengths=LENGTHS,
        resets=None if resets is None else resets.mT if first else resets,
    )
    output = output.transpose(0, 1) if first else output
    errors = (output - target).square()
    wanted = [x, *tensors(hx), *layer.parameters()]
    # backward() receives gradients of the padding too, and must ignore them.
    found = [errors, *tensors(h_n)]
    weights = [torch.ones_like(t) for t in found]
    gradients = torch.autograd.grad(found, wanted, weights, create_graph=True, allow_unused=True)
    gradients = [g for g in gradients if g is not None]
    double = torch.autograd.grad(
        sum(g.square().sum() for g in gradients), wanted, allow_unused=True
    )
    return [output, *tensors(h_n), *gradients, *(g for g in double if g is not None)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize(("backend", "ours", "kwargs"), CASES)
def test_padding_affects_no_result(backend, ours, kwargs, with_resets, value):
    layer = ours(I, H, dtype=torch.float64, **options_for(ours, kwargs))
    x, hx = torch.randn(T, B, I).double(), random_hx(layer, B)
    features = H * (2 if layer.bidirectional else 1)
    target = torch.randn(T, B, features, dtype=torch.float64)
    resets = torch.rand(T, B) < 0.3 if with_resets else None
    with fastrnn.use_backend(backend):
        expected = results(layer, filled(x, 0), hx, resets, filled(target, 0))
        actual = results(layer, filled(x, value), hx, resets, filled(target, value))
    assert_same(actual, expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_unused_initial_states_affect_no_result(reverse):
    """The initial state is unused in a row without steps, or forward after a reset at step 0."""
    weight = torch.randn(1, H, H, dtype=torch.float64, requires_grad=True)
    pre = torch.randn(T, B, 1, H, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[0, 0] = True
    found = []
    for value in (0.0, float("nan")):
        h0 = torch.ones(B, 1, H, dtype=torch.float64)
        h0[2] = value
        if not reverse:
            h0[0] = value
        out, h_n = functional.recurrence(
            pre, weight, h0, lengths=LENGTHS, resets=resets, reverse_from=0 if reverse else 1
        )
        found.append([out, *torch.autograd.grad(out.sum() + h_n[1].sum(), [pre, weight])])
    assert_same(*found)


def test_diverged_sequence_does_not_affect_later_weight_gradients():
    weight = torch.randn(1, H, H, dtype=torch.float64, requires_grad=True)
    pre = torch.randn(4, 1, 1, H, dtype=torch.float64)
    resets = torch.tensor([[False], [False], [True], [False]])
    h0 = torch.zeros(1, 1, H, dtype=torch.float64)
    expected = torch.autograd.grad(functional.recurrence(pre[2:], weight, h0)[0].sum(), weight)
    pre[:2] = float("inf")  # the first sequence diverges
    out, _ = functional.recurrence(pre, weight, h0, resets=resets, activation="tanh")
    assert_same(torch.autograd.grad(out[2:].sum(), weight), expected)


@every_layer
def test_under_transforms(ours):
    layer = ours(I, H, bidirectional=True, dtype=torch.float64)
    parameters = {k: p.detach() for k, p in layer.named_parameters()}
    x = torch.randn(T, B, I, dtype=torch.float64)

    def run(parameters, x):
        return functional_call(layer, parameters, (x,), {"lengths": LENGTHS})

    found = []
    for value in (0.0, float("nan")):
        result, pull = vjp(run, parameters, filled(x, value))
        tangents = {k: torch.ones_like(p) for k, p in parameters.items()}
        push = jvp(
            run, (parameters, filled(x, value)), (tangents, filled(torch.ones_like(x), value))
        )
        found.append([result, pull(result), push])
    assert_same(*found)


@pytest.mark.parametrize("compiler", ["aot_eager"])
def test_compiled(compiler):
    torch._dynamo.reset()
    layer = ReadoutRNN(I, H, 2, num_layers=2, dtype=torch.float64)
    run = torch.compile(layer, fullgraph=True, backend=compiler)
    x = torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for value in (0.0, float("nan")):
        y, h_n = run(filled(x, value), lengths=LENGTHS)
        found.append(torch.autograd.grad(y.sum() + h_n.sum(), list(layer.parameters())))
    assert_same(*found)
