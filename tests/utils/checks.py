"""Compare kernels with the float64 reference.

This module needs only torch, as a GPU machine may lack other packages.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops import reference as specification
from fastrnn.ops.arguments import Outputs, State
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.cells.base import Step
from fastrnn.testing import Problem, assert_close


def double(*tensors: Tensor) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def biggest(*tensors: Tensor) -> float:
    return sum(float(t.abs().max()) for t in tensors if t.numel())


def check_forward(
    module: Any, problem: Problem, device: str = "cpu", mode: str | None = None, **options: Any
) -> None:
    """Check `module.forward` of a backend or kernel, called with `options`."""
    pre, weight_hh, h0, *ragged = problem.tensors(device)
    out, h_n = module.forward(pre, weight_hh, h0, *ragged, *problem.options, **options)
    expected = reference.forward(*double(pre, weight_hh, h0), *ragged, *problem.options)
    scale = biggest(pre, h0, expected[0])
    assert_close(out, expected[0], problem, scale, mode)
    assert_close(h_n, expected[1], problem, scale, mode)


def check_backward(
    module: Any, problem: Problem, device: str = "cpu", mode: str | None = None, **options: Any
) -> None:
    """Check `module.backward`, applied to the results of the reference's forward."""
    pre, weight_hh, h0, *ragged = problem.tensors(device)
    out, h_n = reference.forward(pre, weight_hh, h0, *ragged, *problem.options)
    grads = [torch.randn_like(out), torch.randn_like(h_n)]
    inputs = [*grads, out, weight_hh, h0]
    grad_pre, grad_h0 = module.backward(*inputs, *ragged, *problem.options, **options)
    expected = reference.backward(*double(*inputs), *ragged, *problem.options)
    scale = biggest(*grads, expected[0])
    assert_close(grad_pre, expected[0], problem, scale, mode)
    assert_close(grad_h0, expected[1], problem, scale, mode)


def check_recurrence(
    module: Any, problem: Problem, device: str = "cpu", mode: str | None = None, **options: Any
) -> None:
    """Check `module.recurrence` of a backend of all cells, with everything that it saves."""
    pre, arguments = problem.inputs(device)
    actual = module.recurrence(pre, arguments, save=True, **options)
    expected = specification.forward(pre.double(), _double(arguments))
    scale = 1.0
    if problem.cell.gates == 1:
        scale = biggest(pre, arguments.h0, expected.out)
    _compare(actual, expected, problem, scale, mode)


def check_recurrence_backward(
    module: Any, problem: Problem, device: str = "cpu", mode: str | None = None, **options: Any
) -> None:
    """Check `module.recurrence_backward`, applied to the results of the reference's forward."""
    pre, arguments = problem.inputs(device)
    out, h_n, c_n, gates, inner = specification.forward(pre, arguments)
    grads = Outputs(*(x if x is None else torch.randn_like(x) for x in (out, h_n, c_n)))
    saved = Step(State(out), gates, inner)
    actual = module.recurrence_backward(grads, saved, arguments, **options)
    exact = Outputs(*_double(grads)), Step(State(out.double()), *_double((gates, inner)))
    expected = specification.backward(*exact, _double(arguments))
    scale = max(biggest(x) for x in (*grads, *expected) if x is not None)
    if problem.cell.gates == 1:  # nothing bounds the states
        scale *= 1 + biggest(pre, out)
    _compare(actual, expected, problem, scale, mode)


def _double(given: Any) -> Any:
    """Return a tuple or NamedTuple with its real tensors in float64."""
    cast = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given]
    return given._make(cast) if hasattr(given, "_make") else tuple(cast)


def _compare(actual: Any, expected: Any, problem: Problem, scale: float, mode: str | None) -> None:
    for name, wanted in expected._asdict().items():
        got = getattr(actual, name)
        assert (got is None) == (wanted is None), name
        if wanted is not None:
            # The gradient of a state at a reset sums the gradients of up to T resets.
            times = problem.steps if name.startswith("reset") else 1
            assert_close(got, wanted, problem, times * scale, mode)


def check_special_gradients(module: Any, dtype: torch.dtype, **options: Any) -> None:
    """relu passes the gradient of a NaN state unchanged, and blocks that of a state of 0."""
    problem = Problem(1, 2, 1, 16, dtype=dtype, activation="relu")
    tensors = problem.tensors()
    out = torch.ones_like(tensors.pre)
    out[0, 0, 0, :4] = torch.tensor([float("nan"), 0, 0, 0])
    grads = torch.ones_like(out), torch.ones_like(tensors.h0)
    grads[0][0, 0, 0, :3] = torch.tensor([3, float("nan"), float("inf")])
    grad_pre, grad_h0 = module.backward(*grads, out, *tensors[1:], *problem.options, **options)
    expected = torch.full_like(out, 2)
    expected[0, 0, 0, :4] = torch.tensor([4.0, 0, 0, 0])
    assert torch.equal(grad_pre, expected)
    assert grad_h0.isfinite().all()


#: The checks of forward and backward, for parametrization.
CHECKS: list[Callable[..., None]] = [check_forward, check_backward]

#: The same of a backend of all cells.
RECURRENCE_CHECKS: list[Callable[..., None]] = [check_recurrence, check_recurrence_backward]
