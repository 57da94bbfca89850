"""A layer of several gates as one autograd node, which the CPU kernels run."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastrnn
from fastrnn import functional
from fastrnn.ops import stack
from fastrnn.ops.arguments import State
from fastrnn.ops.cells import CELLS, CODES
from fastrnn.ops.options import Options

from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import assert_same

T, B, I, H = 5, 3, 2, 4  # noqa: E741
LAYERS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU}
STACKS: dict[str, Any] = {"LSTM": functional.lstm, "GRU": functional.gru}
KINDS = [{}, {"bidirectional": True}, {"num_heads": 2}, {"bias": False}]

pytestmark = [
    requires_extension,
    pytest.mark.parametrize("mode", list(LAYERS)),
]


class Layer:
    """A layer's weights and inputs, which require gradients."""

    def __init__(self, mode: str, num_heads: int = 1, steps: int = T, **options: Any) -> None:
        self.mode, self.options = mode, options
        self.weights = list(LAYERS[mode](I, H, dtype=torch.float64, **options).parameters())
        per_direction = 4 if options.get("bias", True) else 2
        for i in range(1, len(self.weights), per_direction) if num_heads > 1 else ():
            blocks = self.weights[i].detach()[:, : H // num_heads].reshape(num_heads, -1, H // 2)
            self.weights[i] = nn.Parameter(blocks)
        directions = 2 if options.get("bidirectional") else 1
        self.x = torch.randn(steps, B, I, dtype=torch.float64, requires_grad=True)
        shape = directions * options.get("num_layers", 1), B, H
        self.states = [
            torch.randn(shape, dtype=torch.float64, requires_grad=True)
            for _ in range(2 if mode == "LSTM" else 1)
        ]

    def leaves(self) -> list[Tensor]:
        return [self.x, *self.states, *self.weights]

    def run(self, with_hx: bool = True, **given: Any) -> list[Tensor]:
        """Return output, h_n and, for the LSTM, c_n: by the kernels, even of few steps."""
        hx: Any = tuple(self.states) if self.mode == "LSTM" else self.states[0]
        with fastrnn.use_backend("cpu"):
            output, last = STACKS[self.mode](
                self.x, hx if with_hx else None, self.weights, **self.options, **given
            )
        return [output, *(last if isinstance(last, tuple) else (last,))]


def gradients(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Return the gradients of the leaves, and the gradients of a function of these."""
    loss = sum((x.square() * (1 + k)).sum() for k, x in enumerate(results))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    return [*first, *torch.autograd.grad(sum(x.square().sum() for x in first), leaves)]


@pytest.mark.parametrize("ragged", ["dense", "lengths", "resets"])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("kwargs", KINDS)
def test_one_node_matches_separate_operators(mode, kwargs, with_hx, ragged, monkeypatch):
    layer = Layer(mode, **kwargs)
    given = {
        "dense": {},
        "lengths": {"lengths": torch.tensor([2, 5, 0])},
        "resets": {"resets": torch.rand(T, B) < 0.3},
    }[ragged]
    leaves = layer.leaves() if with_hx else [layer.x, *layer.weights]
    results = []
    for separate in (False, True):
        if separate:
            monkeypatch.setattr(stack, "are_plain", lambda *tensors: False)
        found = layer.run(with_hx, **given)
        assert (found[0].grad_fn is found[1].grad_fn) != separate
        results.append([*found, *gradients(found, leaves)])
    assert_same(*results)


@pytest.mark.parametrize("kwargs", KINDS)
def test_only_leaves_that_require_gradients_get_them(mode, kwargs):
    layer = Layer(mode, **kwargs)
    leaves = layer.leaves()
    everything = torch.autograd.grad(sum(x.sum() for x in layer.run()), leaves)
    for chosen, gradient in zip(leaves, everything, strict=True):
        for leaf in leaves:
            leaf.requires_grad_(leaf is chosen)
            leaf.grad = None
        sum(x.sum() for x in layer.run()).backward()
        assert [leaf.grad is not None for leaf in leaves] == [leaf is chosen for leaf in leaves]
        assert torch.equal(chosen.grad, gradient)


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("kwargs", KINDS)
def test_what_is_saved(mode, kwargs, with_hx):
    """K gates, an inner value and the output per step and unit; no copies of inputs or weights."""
    layer = Layer(mode, **kwargs)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        results = layer.run(with_hx)
    # data_ptr() would copy the output: autograd saves a lazy clone, in case a user modifies it.
    address = torch._C._data_address
    known = {address(t) for t in (*results, *layer.leaves())}
    fresh = {address(t): t.numel() for t in saved if address(t) not in known}
    units, gates = results[0].numel(), CELLS[CODES[mode]].gates
    expected = [units, gates * units]
    assert sorted(fresh.values()) == sorted(expected)


@pytest.mark.parametrize("kwargs", KINDS)
def test_nothing_is_saved_without_a_gradient(mode, kwargs):
    layer = Layer(mode, **kwargs)
    expected = layer.run()
    with torch.no_grad():
        actual = layer.run()
    assert_same(actual, expected)
    assert all(x.grad_fn is None for x in actual)


@pytest.mark.parametrize("steps", [1, 2, T])
@pytest.mark.parametrize("kwargs", [*KINDS, {"num_layers": 2}])
def test_results_can_be_modified_in_place(mode, kwargs, steps):
    """torch's layers allow this too. Gradients do not change."""
    layer = Layer(mode, steps=steps, **kwargs)
    expected = torch.autograd.grad(
        sum((x * 3 + 1).square().sum() for x in layer.run()), layer.leaves()
    )
    results = layer.run()
    for x in results:
        x.mul_(3).add_(1)
    actual = torch.autograd.grad(sum(x.square().sum() for x in results), layer.leaves())
    assert_same(actual, expected)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kwargs", [*KINDS, {"num_layers": 2, "bidirectional": True}])
def test_every_gradient_owns_its_memory(mode, separate, kwargs, monkeypatch):
    """Clipping or freeing one gradient must not change another, as in torch."""
    layer = Layer(mode, **kwargs)
    if separate:
        monkeypatch.setattr(stack, "are_plain", lambda *tensors: False)
    found = torch.autograd.grad(sum(x.square().sum() for x in layer.run()), layer.leaves())
    storages = [g.untyped_storage() for g in found]
    assert len({s._cdata for s in storages}) == len(storages)
    for gradient, storage in zip(found, storages, strict=True):
        assert storage.nbytes() == gradient.numel() * gradient.element_size()


def test_a_stack_keeps_every_layers_states(mode):
    """`stack.run` slices and concatenates the states of the layers."""
    layer = Layer(mode, num_layers=2, bidirectional=True)
    options = Options(mode, True, 2, 0.0, False, True)
    first = State(*layer.states)
    output, last = stack.in_layers(
        layer.x, first, layer.weights, stack.DENSE, None, options, eager=True
    )
    assert_same([output, *(x for x in last if x is not None)], layer.run())
