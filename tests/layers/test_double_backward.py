"""Second derivatives of whole layers, in training and in eval mode.

cuDNN's layers have none ("derivative for _cudnn_rnn_backward is not implemented").
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fastrnn import FusedRNN

from ..utils.nn_rnn_parity import (
    assert_same,
    every_cell,
    every_layer,
    paired_layers,
    random_hx,
    rnn_and_lstm,
    tensors,
)

T, B, I, H = 4, 2, 2, 2  # noqa: E741
LENGTHS = torch.tensor([2, 4])


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def check(layer: nn.Module, run: Any, *inputs: Tensor) -> None:
    """Run gradgradcheck for the inputs and every parameter, along random directions."""
    names = list(dict(layer.named_parameters()))

    def function(*given: Tensor) -> list[Tensor]:
        weights = dict(zip(names, given[len(inputs) :], strict=True))

        class Bound:
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return functional_call(layer, weights, args, kwargs)

        return tensors(run(Bound(), *given[: len(inputs)]))

    given = (*inputs, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


def pair(hx: tuple[Tensor, ...]) -> Any:
    """Return an hx of one or two states."""
    return hx[0] if len(hx) == 1 else hx


RUNS = {
    "dense": lambda rnn, x, *hx: rnn(x, pair(hx)),
    "lengths": lambda rnn, x, *hx: rnn(x, pair(hx), lengths=LENGTHS),
    "packed": lambda rnn, x, *hx: rnn(
        pack_padded_sequence(x, LENGTHS, enforce_sorted=False), pair(hx)
    ),
}


@pytest.mark.slow
@rnn_and_lstm
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_bidirectional_stack_in_eval_mode(run, ours):
    rnn = ours(I, H, 2, bidirectional=True, dtype=torch.float64).eval()
    hx = tensors(random_hx(rnn, B, requires_grad=True))
    check(rnn, run, *leaves((T, B, I)), *hx)


def test_relu_away_from_its_kink():
    """Positive weights and inputs keep z away from 0, where relu has no derivative."""
    rnn = FusedRNN(I, H, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.uniform_(0.2, 0.5)
    x, hx = (torch.rand(shape, dtype=torch.float64) + 0.2 for shape in ((T, B, I), (1, B, H)))
    check(rnn, RUNS["dense"], x.requires_grad_(), hx.requires_grad_())


@every_cell
def test_the_cell(ours):
    cell = ours(I, H, dtype=torch.float64)
    hx = tensors(random_hx(cell, B, requires_grad=True))
    check(cell, RUNS["dense"], *leaves((B, I)), *hx)


@every_layer
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("steps", [2, 5], ids=["short", "fused"])
def test_gradient_penalty_matches_nn_rnn(steps, training, ours):
    """The loss contains the gradient of the input, as in a WGAN."""
    results = []
    for layer in paired_layers(3, 4, 2, ours=ours, bidirectional=True, dtype=torch.float64):
        layer.train(training)
        x = torch.linspace(-1, 1, steps * 6, dtype=torch.float64).view(steps, 2, 3)
        x.requires_grad_()
        output, *states = tensors(layer(x))
        loss = output.square().sum() + sum(state.sum() for state in states)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        penalty = (slope.norm(dim=-1) - 1).square().mean()
        penalty.backward()
        results.append([penalty, x.grad, *(p.grad for p in layer.parameters())])
    assert_same(*results)


@every_layer
def test_second_derivatives_of_packed_input_match_nn_rnn(ours):
    results = []
    for layer in paired_layers(3, 4, ours=ours, dtype=torch.float64):
        data = torch.linspace(-1, 1, 21, dtype=torch.float64).view(7, 3).requires_grad_()
        packed = PackedSequence(data, torch.tensor([3, 2, 2]))
        output, _ = layer(packed)
        (slope,) = torch.autograd.grad(output.data.square().sum(), data, create_graph=True)
        slope.square().sum().backward()
        results.append([data.grad, *(p.grad for p in layer.parameters())])
    assert_same(*results)
