"""The operator's schema, fake implementation, autograd and gradients."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from fastrnn.functional import recurrence
from fastrnn.ops import reference
from fastrnn.ops.backends import dispatch
from fastrnn.ops.cells import CELLS
from fastrnn.testing import Problem

from ..utils.cells import KINDS, LEAKY, leaves, run
from ..utils.marks import requires_extension
from ..utils.strategies import problems

LAYOUTS = ["dense", "lengths", "packed"]


def gradients(function: Callable, real: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, ...]:
    # Without a reset, the reference does not use the state at a reset.
    return torch.autograd.grad(function(*real), real, grads, materialize_grads=True)


@pytest.mark.parametrize("kind", [*KINDS, *LEAKY])
def test_gradients_match_the_differentiated_reference(kind: str) -> None:
    """Our gradients use a formula and a matrix product; the reference's use autograd."""

    @settings(deadline=None, max_examples=100 if kind == "RNN" else 15)
    @given(problems(kind=kind))
    def check(problem: Problem) -> None:
        real, complete = leaves(problem)

        def ours(*tensors: Tensor) -> list[Tensor]:
            return run(*complete(*tensors))

        def truth(*tensors: Tensor) -> list[Tensor]:
            results = reference.forward(*complete(*tensors))
            return [x for x in results[:3] if x is not None]

        grads = [torch.randn_like(x) for x in ours(*real)]
        expected = gradients(truth, real, grads)
        for actual, wanted in zip(gradients(ours, real, grads), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)

    check()


@pytest.mark.parametrize(
    ("kind", "activation", "resets"),
    [
        ("RNN", "tanh", True),
        ("RNN", "relu", False),
        ("LSTM", "tanh", True),
        ("GRU", "tanh", True),
        pytest.param("RNN", "tanh", False, marks=pytest.mark.slow),
        pytest.param("RNN", "relu", True, marks=pytest.mark.slow),
        pytest.param("LSTM", "tanh", False, marks=pytest.mark.slow),
        pytest.param("GRU", "tanh", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_and_gradgradcheck(layout: str, kind: str, activation: str, resets: bool) -> None:
    # nn.RNN's cell takes the slow mode, which perturbs each number by itself: few suffice.
    sizes = (3, 2, 2, 3) if kind == "RNN" else (3, 2, 2, 2)
    options: Any = {"reverse_from": 1, "seed": 1, "resets": resets, "kind": kind}
    real, complete = leaves(Problem(*sizes, layout, activation, **options))

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(run(*complete(*tensors)))

    assert torch.autograd.gradcheck(function, real)
    assert torch.autograd.gradgradcheck(function, real, fast_mode=kind != "RNN")


@pytest.mark.parametrize("kind", KINDS)
def test_third_derivative(kind: str) -> None:
    """The double backward is itself differentiable."""
    real, complete = leaves(Problem(3, 2, 1, 2, kind=kind))

    def first(*tensors: Tensor) -> tuple[Tensor, ...]:
        out = run(*complete(*tensors))[0]
        return torch.autograd.grad(out.square().sum(), tensors, create_graph=True)

    assert torch.autograd.gradgradcheck(first, real, fast_mode=kind != "RNN")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "dtype", "kind"),
    [
        ("lengths", torch.float32, "RNN"),
        pytest.param("lengths", torch.float32, "LSTM", marks=pytest.mark.exhaustive),
        pytest.param("packed", torch.float64, "GRU", marks=pytest.mark.exhaustive),
        pytest.param("packed", torch.bfloat16, "RNN", marks=pytest.mark.exhaustive),
        pytest.param("dense", torch.bfloat16, "LSTM", marks=pytest.mark.slow),
        pytest.param("packed", torch.float64, "RNN", marks=pytest.mark.exhaustive),
        pytest.param("dense", torch.float64, "RNN", marks=pytest.mark.exhaustive),
        pytest.param("packed", torch.float64, "LSTM", marks=pytest.mark.exhaustive),
        pytest.param("lengths", torch.float32, "GRU", marks=pytest.mark.exhaustive),
        pytest.param("dense", torch.bfloat16, "GRU", marks=pytest.mark.exhaustive),
    ],
)
def test_opcheck(layout: str, dtype: torch.dtype, kind: str) -> None:
    # Tracing takes time for each step and direction. Two steps have a recurrence, and nn.RNN's cell
    # runs in both directions.
    sizes = (2, 3, 2, 5) if kind == "RNN" else (2, 2, 1, 3)
    problem = Problem(*sizes, layout, dtype=dtype, resets=layout != "dense", kind=kind)
    real, complete = leaves(problem)
    pre, arguments = complete(*real)
    # In half precision, results depend on the order of a sum. All other checks are bitwise.
    tolerance = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
    forward = torch.ops.fastrnn.recurrence.default
    given = (pre, *arguments, True)
    torch.library.opcheck(forward, given, **tolerance)
    out, h_n, c_n, gates, inner = (x.detach() for x in forward(*given))
    inputs = [torch.randn_like(x) for x in (out, h_n, c_n)] + [out, gates, inner]
    inputs = [x.requires_grad_() if x.dim() > 1 else None for x in inputs]
    backward = torch.ops.fastrnn.recurrence_backward.default
    torch.library.opcheck(backward, (*inputs, *arguments), **tolerance)


@pytest.mark.parametrize("kind", [*KINDS, *LEAKY])
def test_gates_are_saved_only_for_a_derivative(kind: str) -> None:
    problem = Problem(2, 2, 2, 3, kind=kind)
    pre, arguments = problem.inputs()
    function = torch.ops.fastrnn.recurrence.default
    given = (pre, *arguments, False)
    assert [x.shape for x in function(*given)[3:]] == [(0,), (0,)]
    torch.library.opcheck(function, given, test_utils=("test_schema", "test_faketensor"))
    *_, gates, inner = function(pre.requires_grad_(), *given[1:])
    assert gates.shape == (pre.shape if problem.cell.saves else (0,))
    assert inner.shape == ((2, 2, 2, 3) if problem.cell.has_inner else (0,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_form(layout: str) -> None:
    """The result is written to a tensor of the caller, which may be pre."""
    pre, arguments = Problem(4, 3, 2, 5, layout, resets=True).inputs()
    function = torch.ops.fastrnn.recurrence
    expected, expected_h_n, *_ = function(pre, *arguments, False)
    out = torch.full_like(pre, float("nan"))
    assert torch.equal(function.out(pre, *arguments, out=out), expected_h_n)
    assert torch.equal(out, expected)
    checks = ("test_schema", "test_faketensor")  # it is not differentiable
    torch.library.opcheck(function.out, (pre, *arguments), {"out": out}, test_utils=checks)
    assert torch.equal(function.out(pre, *arguments, out=pre), expected_h_n)
    assert torch.equal(pre, expected)


@pytest.mark.parametrize("layout", ["dense", "lengths"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_out_form_writes_gates_over_pre(kind: str, layout: str) -> None:
    problem = Problem(4, 3, 2, 5, layout, resets=True, kind=kind)
    pre, arguments = problem.inputs()
    expected = dispatch.BACKENDS["reference"].recurrence(pre, arguments, save=True)  # type: ignore[attr-defined]
    out, inner = (torch.full_like(expected.out, float("nan")) for _ in range(2))
    c_n = torch.full_like(arguments.h0, float("nan")) if problem.cell.has_c else None
    given = {"out": out, "c_n": c_n, "gates": pre, "inner": inner}
    h_n = torch.ops.fastrnn.recurrence.out(pre, *arguments, **given)
    torch.testing.assert_close((out, h_n, c_n, pre, inner), tuple(expected))


@pytest.mark.parametrize(
    "function", [torch.ops.fastrnn.recurrence.out, dispatch.forward_out], ids=["cpu", "python"]
)
def test_invalid_out_raises(function: Callable) -> None:
    pre, arguments = Problem(4, 3, 2, 5).inputs()
    for out in (pre[:3].clone(), pre.float(), pre.new_empty(pre.mT.shape).mT):
        with pytest.raises((RuntimeError, ValueError), match="out"):
            function(pre, *arguments, out=out)


def test_recurrence_by_selects_a_backend_by_number() -> None:
    pre, arguments = Problem(4, 3, 2, 5).inputs()
    expected = reference.forward(pre, arguments)
    number = dispatch.NAMES.index("reference")
    out, h_n, *_ = torch.ops.fastrnn.recurrence_by(pre, *arguments, False, number)
    assert torch.equal(out, expected.out)
    assert torch.equal(h_n, expected.h_n)
    with pytest.raises(RuntimeError, match="'torch' backend cannot serve"):
        torch.ops.fastrnn.recurrence_by(pre, *arguments, False, dispatch.NAMES.index("torch"))


def test_cell_numbers_match_cpp() -> None:
    header = Path(__file__).parents[2] / "csrc" / "params.h"
    declared = re.search(r"enum class Cell \{([^}]*)\};", header.read_text())
    assert declared is not None
    assert [cell.mode.lower() for cell in CELLS] == declared[1].replace(",", " ").split()


@requires_extension
def test_unknown_cells_raise() -> None:
    pre, arguments = Problem(4, 3, 2, 5).inputs()
    for number in (-1, len(CELLS), 2**32):
        with pytest.raises(RuntimeError, match=f"there is no cell {number}"):
            torch.ops.fastrnn.recurrence.out(pre, *arguments._replace(mode=number), out=pre)


def test_only_requested_gradients_are_computed() -> None:
    (pre, weight_hh, h0), _ = leaves(Problem(3, 2, 1, 2))
    out, _ = recurrence(pre, weight_hh.detach(), h0.detach())
    out.sum().backward()
    assert pre.grad is not None
    assert weight_hh.grad is None
    assert h0.grad is None
