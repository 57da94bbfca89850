"""The operator of every cell under torch.func, torch.vmap and forward-mode AD."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from fastrnn.ops import reference
from fastrnn.ops.arguments import Arguments
from fastrnn.ops.backends import dispatch
from fastrnn.testing import Problem

from ..utils.cells import KINDS, leaves, run
from ..utils.nn_rnn_parity import assert_same

LAYOUTS = ["dense", "lengths", "packed"]
V = 3


def stack(results: list[Any]) -> Any:
    """Stack the leaves of equal trees: [(a, b), (a, b)] -> (stacked a, stacked b)."""
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *results)


def of_tensors(problem: Problem) -> Callable[..., tuple[Tensor, ...]]:
    """Return the operator as a function of all tensors of its schema."""

    def function(pre: Tensor, *given: Any) -> tuple[Tensor, ...]:
        return tuple(run(pre, Arguments(*given, *problem.options)))  # type: ignore[call-arg]

    return function


def scalar(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """Return a function to a number that depends on every result in another way."""

    def of(*tensors: Any) -> Tensor:
        out, *states = function(*tensors)
        return out.square().sum() + sum(x.sin().sum() for x in states)

    return of


# The operator with combinations of mapped arguments: as rows, as groups or in a loop.


def mapped_problems(kind: str, layout: str, resets: bool) -> tuple[Problem, list[list[Any]]]:
    """Return a problem, and the tensors of V problems of its shape."""
    problems = [Problem(4, 3, 3, 2, layout, seed=v, resets=resets, kind=kind) for v in range(V)]
    given = []
    for problem in problems:
        pre, arguments = problem.inputs()
        given.append([pre, *arguments.tensors()])
    if layout == "packed":  # one layout for all, so that all have the same number of rows
        generator = torch.Generator().manual_seed(0)
        first = Arguments._fields.index("lengths") + 1
        for tensors in given:
            order = torch.randperm(given[0][0].shape[0], generator=generator)
            tensors[0] = given[0][0][order]
            tensors[first : first + 3] = given[0][first : first + 3]
            if resets:
                tensors[first + 2] = given[0][first + 2][order]
    return problems[0], given


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_of_the_operator_equals_a_loop(kind: str, layout: str, resets: bool) -> None:
    problem, given = mapped_problems(kind, layout, resets)
    function, base = of_tensors(problem), given[0]
    present = [i for i, x in enumerate(base) if x is not None]
    real = tuple(i for i in present if base[i].is_floating_point())
    gradients = grad(scalar(function), argnums=real)
    # All combinations for nn.RNN's cell; others share its code.
    counts = range(1, len(present) + 1) if kind == "RNN" else (1, 2, len(present))
    for mapped in (c for n in counts for c in itertools.combinations(present, n)):
        dims = tuple(0 if i in mapped else None for i in range(len(base)))
        arguments = [
            torch.stack([other[i] for other in given]) if i in mapped else x
            for i, x in enumerate(base)
        ]
        alone = [[x[v] if i in mapped else x for i, x in enumerate(arguments)] for v in range(V)]
        for mapping in (function, gradients) if len(mapped) <= 2 else (function,):
            expected = stack([mapping(*tensors) for tensors in alone])
            assert_same(vmap(mapping, in_dims=dims)(*arguments), expected)


def test_vmap_of_packed_rows_with_different_offsets() -> None:
    lengths = torch.tensor([[3, 2, 1], [3, 3, 0], [2, 2, 2]])
    sizes = (torch.arange(3)[:, None] < lengths[:, None]).sum(2)  # [V, T]
    offsets = sizes.cumsum(1) - sizes
    problem = Problem(2, 3, 2, 2)
    pre, arguments = problem.inputs()
    function = scalar(of_tensors(problem))

    def of(weight_hh: Tensor, lengths: Tensor, offsets: Tensor) -> Tensor:
        given = arguments._replace(weight_hh=weight_hh, lengths=lengths, offsets=offsets)
        return function(pre.flatten(0, 1), *given.tensors())

    weight_hh = arguments.weight_hh
    expected = [grad(of)(weight_hh, *each) for each in zip(lengths, offsets, strict=True)]
    assert_same(vmap(grad(of), (None, 0, 0))(weight_hh, lengths, offsets), stack(expected))


# Forward mode.

DIRECTIONS = [0, 1, 2]


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tangents_match_the_reference(layout: str, resets: bool) -> None:
    """The kernels compute nn.RNN's tangents; the reference differentiates plain PyTorch code."""
    for activation, reverse_from in itertools.product(("tanh", "relu"), DIRECTIONS):
        problem = Problem(5, 3, 2, 3, layout, activation, reverse_from, seed=2, resets=resets)
        pre, weight_hh, h0, ragged = problem.tensors()
        options = None, None, *ragged, None, None, *problem.options
        truth: Any = dispatch.BACKENDS["reference"]
        primals: tuple[Tensor, ...] = pre, weight_hh, h0

        def forward(pre: Tensor, weight_hh: Tensor, h0: Tensor) -> Any:
            return torch.ops.fastrnn.recurrence(pre, weight_hh, h0, *options, False)[:2]  # noqa: B023

        def backward(
            grad_out: Tensor, grad_h_n: Tensor, out: Tensor, weight_hh: Tensor, h0: Tensor
        ) -> Any:
            given = grad_out, grad_h_n, None, out, None, None, weight_hh, h0, *options  # noqa: B023
            return torch.ops.fastrnn.recurrence_backward(*given)[:2]

        for operator, expected_by in ((forward, truth.forward), (backward, truth.backward)):
            tangents = tuple(map(torch.randn_like, primals))
            actual = jvp(operator, primals, tangents)
            expected = jvp(lambda *x: expected_by(*x, ragged, *problem.options), primals, tangents)  # noqa: B023
            assert_same(actual, expected)
            out, h_n = expected[0]
            primals = torch.randn_like(out), torch.randn_like(h_n), out, weight_hh, h0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_order_of_modes_agrees(kind: str, layout: str) -> None:
    """The first and second derivatives along a tangent, against the differentiated reference."""
    real, complete = leaves(Problem(3, 2, 2, 2, layout, kind=kind, resets=True, seed=3))
    primals = tuple(x.detach() for x in real)
    tangents = tuple(map(torch.randn_like, primals))
    every = tuple(range(len(primals)))

    def operator(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(run(*complete(*tensors)))

    def truth(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for x in reference.forward(*complete(*tensors))[:3] if x is not None)

    def along(function: Callable) -> Callable:
        return lambda *tensors: jvp(function, tensors, tangents)[1]

    results = []
    for function in (operator, truth):
        of = scalar(function)
        results.append(
            [
                *along(function)(*primals),
                along(along(of))(*primals),
                *along(grad(of, every))(*primals),
                *grad(along(of), every)(*primals),
            ]
        )
    assert_same(*results)


@pytest.mark.parametrize("kind", KINDS)
def test_hessians(kind: str) -> None:
    real, complete = leaves(Problem(3, 2, 1, 2, kind=kind))
    pre, *rest = (x.detach() for x in real)

    def of(pre: Tensor) -> Tensor:
        return scalar(lambda *tensors: tuple(run(*complete(*tensors))))(pre, *rest)

    expected = jacrev(jacrev(of))(pre)
    for actual in (hessian(of), jacrev(jacfwd(of)), jacfwd(jacfwd(of))):
        assert_same(actual(pre), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_compiled_tangents_and_hessians(kind: str) -> None:
    """jacrev(jacfwd(...)) is missing: torch 2.13 fails to compile it for a batched product."""
    real, complete = leaves(Problem(3, 1, 1, 1, kind=kind))
    pre, *rest = (x.detach() for x in real)

    def of(pre: Tensor) -> Tensor:
        out, *_ = run(*complete(pre, *rest))
        return out.square().sum()

    for function in (lambda pre: jvp(of, (pre,), (pre,)), hessian(of)):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_same(compiled(pre), function(pre))


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_dual_tensors(kind: str, recording: bool) -> None:
    real, complete = leaves(Problem(3, 2, 2, 2, kind=kind, resets=True))
    primals = tuple(x if recording else x.detach() for x in real)
    tangents = tuple(map(torch.randn_like, primals))

    def operator(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(run(*complete(*tensors)))

    with forward_ad.dual_level(), torch.set_grad_enabled(recording):
        duals = operator(*map(forward_ad.make_dual, primals, tangents))
        actual = [forward_ad.unpack_dual(x) for x in duals]
        assert all(x.tangent.requires_grad == recording for x in actual)
    expected = jvp(operator, primals, tangents)
    assert_same(([x.primal for x in actual], [x.tangent for x in actual]), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_both_modes_batched_and_nested(kind: str, layout: str) -> None:
    real, complete = leaves(Problem(3, 2, 2, 2, layout, seed=3, resets=True, kind=kind))

    def of(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(run(*complete(*tensors)))

    both = {"check_batched_forward_grad": True, "check_batched_grad": True}
    nested = {"check_rev_over_rev": False, "check_undefined_grad": False}
    fast = {"fast_mode": kind != "RNN"}
    assert torch.autograd.gradcheck(of, real, check_forward_ad=True, **both, **fast)
    assert torch.autograd.gradgradcheck(of, real, check_fwd_over_rev=True, **nested, **fast)
