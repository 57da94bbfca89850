"""The operator's schema, fake implementation, autograd and gradients."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from fastrnn.functional import recurrence
from fastrnn.ops import reference
from fastrnn.ops.backends import cpu, dispatch
from fastrnn.ops.ragged import Ragged
from fastrnn.testing import Problem

from ..utils.marks import requires_extension
from ..utils.strategies import problems

LAYOUTS = ["dense", "lengths", "packed"]


def tensors(problem: Problem) -> tuple[list[Tensor], Ragged]:
    """Return the differentiable arguments, which require gradients, and the others."""
    pre, weight_hh, h0, ragged = problem.tensors()
    return [tensor.requires_grad_() for tensor in (pre, weight_hh, h0)], ragged


def gradients(function, real: list[Tensor], grads: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*real), real, grads)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems())
def test_gradients_match_the_differentiated_reference(problem: Problem) -> None:
    """Our gradients use a formula and a matrix product; the reference's use autograd."""
    real, ragged = tensors(problem)
    activation, reverse_from = problem.options

    def ours(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.fastrnn.recurrence(*arguments, *ragged, activation, reverse_from)

    def truth(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return reference.forward(*arguments, ragged, activation, reverse_from)

    with torch.no_grad():
        out, h_n = ours(*real)
    grads = torch.randn_like(out), torch.randn_like(h_n)
    expected = gradients(truth, real, grads)
    for actual, wanted in zip(gradients(ours, real, grads), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("activation", "resets"),
    [
        ("tanh", True),
        ("relu", False),
        pytest.param("tanh", False, marks=pytest.mark.slow),
        pytest.param("relu", True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_and_gradgradcheck(layout: str, activation: str, resets: bool) -> None:
    problem = Problem(4, 3, 2, 3, layout, activation, reverse_from=1, seed=1, resets=resets)
    real, ragged = tensors(problem)

    def run(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return recurrence(*arguments, **ragged._asdict(), activation=activation, reverse_from=1)

    assert torch.autograd.gradcheck(run, real)
    assert torch.autograd.gradgradcheck(run, real)


def test_third_derivative() -> None:
    """The double backward is itself differentiable."""
    real, _ = tensors(Problem(3, 2, 1, 2))

    def first(*arguments: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(recurrence(*arguments)[0].sum(), arguments, create_graph=True)

    assert torch.autograd.gradgradcheck(first, real)


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("lengths", torch.float32),
        pytest.param("packed", torch.float64, marks=pytest.mark.slow),
        pytest.param("dense", torch.float64, marks=pytest.mark.slow),
        pytest.param("packed", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_opcheck(layout: str, dtype: torch.dtype) -> None:
    problem = Problem(4, 3, 2, 5, layout, dtype=dtype, resets=layout != "dense")
    real, ragged = tensors(problem)
    # In half precision, results depend on the order of a sum. All other checks are bitwise.
    tolerance = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
    arguments = (*real, *ragged, *problem.options)
    torch.library.opcheck(torch.ops.fastrnn.recurrence.default, arguments, **tolerance)
    out, h_n = (tensor.detach() for tensor in torch.ops.fastrnn.recurrence(*arguments))
    inputs = [torch.randn_like(out), torch.randn_like(h_n), out, *real[1:]]
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    torch.library.opcheck(
        torch.ops.fastrnn.recurrence_backward.default,
        (*inputs, *ragged, *problem.options),
        **tolerance,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_form(layout: str) -> None:
    """The result is written to a tensor of the caller, which may be pre."""
    pre, weight_hh, h0, ragged = Problem(4, 3, 2, 5, layout, resets=True).tensors()
    rest = weight_hh, h0, *ragged, reference.TANH, 1
    operator = torch.ops.fastrnn.recurrence
    expected, expected_h_n = operator(pre, *rest)
    out = torch.full_like(pre, float("nan"))
    assert torch.equal(operator.out(pre, *rest, out=out), expected_h_n)
    assert torch.equal(out, expected)
    checks = ("test_schema", "test_faketensor")  # it is not differentiable
    torch.library.opcheck(operator.out, (pre, *rest), {"out": out}, test_utils=checks)
    assert torch.equal(operator.out(pre, *rest, out=pre), expected_h_n)
    assert torch.equal(pre, expected)


@pytest.mark.parametrize(
    "operator", [torch.ops.fastrnn.recurrence.out, dispatch.forward_out], ids=["cpu", "python"]
)
def test_invalid_out_raises(operator: Callable) -> None:
    pre, weight_hh, h0, ragged = Problem(4, 3, 2, 5).tensors()
    rest = weight_hh, h0, *ragged, reference.TANH, 1
    for out in (pre[:3].clone(), pre.float(), pre.new_empty(pre.mT.shape).mT):
        with pytest.raises((RuntimeError, ValueError), match="out"):
            operator(pre, *rest, out=out)


def test_recurrence_by_selects_a_backend_by_number() -> None:
    pre, weight_hh, h0, ragged = Problem(4, 3, 2, 5).tensors()
    rest = weight_hh, h0, *ragged, reference.TANH, 1
    expected = reference.forward(pre, weight_hh, h0, ragged, reference.TANH, 1)
    number = dispatch.NAMES.index("reference")
    actual = torch.ops.fastrnn.recurrence_by(pre, *rest, number)
    assert all(map(torch.equal, actual, expected))
    with pytest.raises(RuntimeError, match="'torch' backend cannot serve"):
        torch.ops.fastrnn.recurrence_by(pre, *rest, dispatch.NAMES.index("torch"))


def test_activation_codes_match_cpp() -> None:
    header = Path(__file__).parents[2] / "csrc" / "params.h"
    declared = re.search(r"enum class Activation \{ (.*) \};", header.read_text())
    assert declared is not None
    assert list(reference.ACTIVATION_CODES) == declared[1].split(", ")
    assert list(reference.ACTIVATION_CODES.values()) == [0, 1]


@requires_extension
def test_unknown_activation_codes_raise() -> None:
    pre, weight_hh, h0, *ragged = Problem(4, 3, 2, 5).tensors()
    for number in (-1, 2, 2**32):
        with pytest.raises(RuntimeError, match=f"0 for tanh or 1 for relu, got {number}"):
            cpu.BACKEND.forward(pre, weight_hh, h0, *ragged, number, 1)


def test_only_requested_gradients_are_computed() -> None:
    (pre, weight_hh, h0), _ = tensors(Problem(3, 2, 1, 2))
    out, _ = recurrence(pre, weight_hh.detach(), h0.detach())
    out.sum().backward()
    assert pre.grad is not None
    assert weight_hh.grad is None
    assert h0.grad is None
