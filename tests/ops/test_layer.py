"""A layer as one autograd node matches separate operators and saves no more tensors."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad

from fastrnn import FusedRNN, functional

from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import assert_same, paired_layers
from ..utils.operators import run_separate_operators

pytestmark = requires_extension

T, B, I, H = 5, 3, 2, 4  # noqa: E741
KINDS = [{}, {"bidirectional": True}, {"num_heads": 2}, {"bias": False, "nonlinearity": "relu"}]


def make(**kwargs) -> tuple[FusedRNN, Tensor, Tensor]:
    rnn = FusedRNN(I, H, dtype=torch.float64, **kwargs)
    directions = 2 if rnn.bidirectional else 1
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    return rnn, x, torch.randn(directions, B, H, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("given", [{}, {"lengths": torch.tensor([2, 5, 0])}, {"resets": True}])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("kwargs", KINDS)
def test_one_node_matches_separate_operators(kwargs, with_hx, given, monkeypatch):
    rnn, x, hx = make(**kwargs)
    if "resets" in given:
        given = {"resets": torch.rand(T, B) < 0.3}
    leaves = [x, *([hx] if with_hx else []), *rnn.parameters()]

    def run():
        output, h_n = rnn(x, hx if with_hx else None, **given)
        loss = (output.square().sum() + (h_n * 3).sum()).backward
        return output, h_n, loss

    results = []
    for separate in (False, True):
        if separate:
            run_separate_operators(monkeypatch)
        for leaf in leaves:
            leaf.grad = None
        output, h_n, backward = run()
        assert (output.grad_fn is h_n.grad_fn) != separate
        backward()
        results.append([output, h_n, *(leaf.grad for leaf in leaves)])
    assert_same(*results)


@pytest.mark.parametrize("kwargs", KINDS)
def test_only_leaves_that_require_gradients_get_them(kwargs):
    rnn, x, hx = make(**kwargs)
    names, leaves = zip(*rnn.named_parameters(), ("x", x), ("hx", hx), strict=True)
    output, h_n = rnn(x, hx)
    everything = torch.autograd.grad(output.sum() + h_n.sum(), leaves)
    for chosen in itertools.combinations(range(len(leaves)), 2):
        for i, leaf in enumerate(leaves):
            leaf.requires_grad_(i in chosen)
        for leaf in leaves:
            leaf.grad = None
        output, h_n = rnn(x, hx)
        (output.sum() + h_n.sum()).backward()
        for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
            assert (leaf.grad is not None) == (i in chosen), name
            if i in chosen:
                assert torch.equal(leaf.grad, everything[i]), name


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("kwargs", KINDS)
def test_only_the_inputs_and_the_output_are_saved(kwargs, with_hx):
    rnn, x, hx = make(**kwargs)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        output, _ = rnn(x, hx if with_hx else None)
    # data_ptr() would copy the output: autograd saves a lazy clone, in case a user modifies it.
    address = torch._C._data_address
    known = {address(t) for t in (output, x, hx, *rnn.parameters())}
    assert {address(t) for t in saved} <= known
    assert len(saved) == 2 + with_hx + len(list(rnn.parameters()))


@pytest.mark.parametrize("name", ["x", "hx", "weight_ih_l0", "weight_hh_l0"])
def test_in_place_changes_of_saved_tensors_raise(name):
    rnn, x, hx = make()
    output, h_n = rnn(x, hx)
    tensors = {"x": x, "hx": hx, **dict(rnn.named_parameters())}
    with torch.no_grad():
        tensors[name].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (output.sum() + h_n.sum()).backward()


@pytest.mark.parametrize("kwargs", KINDS)
@pytest.mark.parametrize("recording", [True, False])
def test_state_can_be_modified_in_place(kwargs, recording):
    """The state is not a view, and shares no memory with the output."""
    rnn, x, hx = make(**kwargs)
    with torch.set_grad_enabled(recording):
        output, h_n = rnn(x, hx)
        kept, expected = output.clone(), h_n.sum() * 2
    h_n.mul_(2)
    assert torch.equal(output, kept)
    assert not output._is_view()
    assert not h_n._is_view()
    torch.testing.assert_close(h_n.sum(), expected)
    if recording:
        gradient = torch.autograd.grad(h_n.sum(), hx, retain_graph=True)
        assert_same(gradient, torch.autograd.grad(expected, hx))


@pytest.mark.parametrize("steps", [1, 2, T])
@pytest.mark.parametrize("kwargs", [*KINDS, {"num_layers": 2, "batch_first": True}])
def test_output_can_be_modified_in_place(kwargs, steps):
    """nn.RNN allows this too, for example by dropout(inplace=True). Gradients do not change."""
    mine = FusedRNN(I, H, dtype=torch.float64, **kwargs)
    x = torch.randn(steps, steps, I, dtype=torch.float64, requires_grad=True)
    output, _ = mine(x)
    expected = torch.autograd.grad((output * 3 + 1).square().sum(), [x, *mine.parameters()])
    output, _ = mine(x)
    output.mul_(3).add_(1)
    actual = torch.autograd.grad(output.square().sum(), [x, *mine.parameters()])
    assert_same(actual, expected)


def test_operator_output_can_be_modified_in_place():
    pre = torch.randn(T, B, 1, H, dtype=torch.float64, requires_grad=True)
    weight, h0 = torch.randn(1, H, H, dtype=torch.float64), torch.zeros(B, 1, H).double()
    out, _ = functional.recurrence(pre, weight, h0)
    expected = torch.autograd.grad(out.square().sum() * 4, pre)
    out, _ = functional.recurrence(pre, weight, h0)
    assert_same(torch.autograd.grad(out.mul_(2).square().sum(), pre), expected)


def test_output_is_copied_on_write_only():
    """The tensor saved for backward shares the output's memory until one of them is modified."""
    rnn, x, _ = make()
    output, _ = rnn(x)
    (output @ output.mT).tanh().sum().backward()
    assert torch._C._is_cow_tensor(output)
    kept = output.detach().clone()
    assert (output.detach().numpy() == kept.numpy()).all()


@pytest.mark.parametrize("given", [{}, {"lengths": torch.tensor([2, 5, 0])}])
@pytest.mark.parametrize("steps", [1, 2, T])
@pytest.mark.parametrize(
    "kwargs", [*KINDS, {"num_layers": 2, "bidirectional": True, "learned_h0": True}]
)
@pytest.mark.parametrize("how", ["one node", "separate", "torch.func"])
def test_every_gradient_owns_its_memory(how, kwargs, steps, given, monkeypatch):
    """Clipping or freeing one gradient must not change another, as in nn.RNN."""
    rnn = FusedRNN(I, H, **kwargs)
    x = torch.randn(steps, B, I, requires_grad=True)
    hx = torch.randn(rnn.num_layers * (2 if rnn.bidirectional else 1), B, H, requires_grad=True)
    if how == "separate":
        run_separate_operators(monkeypatch)
    named = {"x": x, "hx": hx, **dict(rnn.named_parameters())}

    def loss(named):
        output, h_n = functional_call(
            rnn,
            {k: v for k, v in named.items() if k not in ("x", "hx")},
            (named["x"], named["hx"]),
            given,
        )
        return output.square().sum() + h_n.sum()

    if how == "torch.func":
        gradients = grad(loss)(named)
    else:
        found = torch.autograd.grad(loss(named), list(named.values()), allow_unused=True)
        gradients = {k: g for k, g in zip(named, found, strict=True) if g is not None}
    assert len(gradients) >= len(named) - 1  # hx replaces a learned h0
    storages = {name: g.untyped_storage() for name, g in gradients.items()}
    assert len({s._cdata for s in storages.values()}) == len(storages)
    for name, g in gradients.items():
        assert storages[name].nbytes() == g.numel() * g.element_size(), name


def test_clipping_matches_nn_rnn():
    mine, theirs = paired_layers(I, H, bidirectional=True, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    clipped = []
    for layer in (mine, theirs):
        parameters = list(layer.parameters())
        gradients = torch.autograd.grad(layer(x)[0].square().sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        clipped.append([parameter.grad for parameter in parameters])
    assert_same(*clipped)


def test_hooks_that_modify_gradients_match_nn_rnn():
    mine, theirs = paired_layers(I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for layer in (mine, theirs):
        for parameter in layer.parameters():
            parameter.register_hook(lambda gradient: gradient.mul_(2))
        layer(x)[0].square().sum().backward()
    assert_same([p.grad for p in mine.parameters()], [p.grad for p in theirs.parameters()])
