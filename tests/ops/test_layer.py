"""A layer as one node of autograd computes what its pieces do, and saves no more."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastrnn import FusedRNN
from fastrnn.ops import cpp

from ..twins import assert_same

pytestmark = pytest.mark.skipif(cpp.unusable() is not None, reason="the extension is not built")

T, B, I, H = 5, 3, 2, 4  # noqa: E741
KINDS = [{}, {"bidirectional": True}, {"num_heads": 2}, {"bias": False, "nonlinearity": "relu"}]


class Looking(TorchDispatchMode):
    """Changes nothing; but to what looks on, a layer shows its pieces."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return operator(*args, **(kwargs or {}))


def make(**kwargs) -> tuple[FusedRNN, Tensor, Tensor]:
    rnn = FusedRNN(I, H, dtype=torch.float64, **kwargs)
    directions = 2 if rnn.bidirectional else 1
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    return rnn, x, torch.randn(directions, B, H, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("given", [{}, {"lengths": torch.tensor([2, 5, 0])}, {"resets": True}])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("kwargs", KINDS)
def test_one_node_computes_what_the_pieces_do(kwargs, with_hx, given):
    rnn, x, hx = make(**kwargs)
    if "resets" in given:
        given = {"resets": torch.rand(T, B) < 0.3}
    leaves = [x, *([hx] if with_hx else []), *rnn.parameters()]

    def run():
        output, h_n = rnn(x, hx if with_hx else None, **given)
        loss = (output.square().sum() + (h_n * 3).sum()).backward
        return output, h_n, loss

    results = []
    for looked_at in (False, True):
        for leaf in leaves:
            leaf.grad = None
        if looked_at:
            with Looking():
                output, h_n, backward = run()
                backward()
        else:
            output, h_n, backward = run()
            assert output.grad_fn is h_n.grad_fn
            backward()
        results.append([output, h_n, *(leaf.grad for leaf in leaves)])
    assert_same(*results)


@pytest.mark.parametrize("kwargs", KINDS)
def test_what_needs_no_gradient_gets_none(kwargs):
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
def test_nothing_is_saved_but_the_output_and_what_was_given(kwargs, with_hx):
    rnn, x, hx = make(**kwargs)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        output, _ = rnn(x, hx if with_hx else None)
    known = {t.data_ptr() for t in (output, x, hx, *rnn.parameters())}
    fresh = [t.numel() for t in saved if t.data_ptr() not in known]
    assert len(saved) == 3 + 2 * hx.shape[0]
    assert fresh == ([] if with_hx else [hx.numel()])  # zeros


@pytest.mark.parametrize("name", ["x", "hx", "weight_ih_l0", "weight_hh_l0", "output"])
def test_a_saved_tensor_that_is_written_to_is_noticed(name):
    rnn, x, hx = make()
    output, h_n = rnn(x, hx)
    tensors = {"x": x, "hx": hx, "output": output, **dict(rnn.named_parameters())}
    with torch.no_grad():
        tensors[name].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (output.sum() + h_n.sum()).backward()


@pytest.mark.parametrize("kwargs", KINDS)
@pytest.mark.parametrize("recording", [True, False])
def test_users_may_write_to_the_state(kwargs, recording):
    """As to any tensor: it is no view of another, and shares no memory with the output."""
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
