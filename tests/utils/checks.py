"""Compare kernels with the float64 reference.

This module needs only torch, as a GPU machine may lack other packages.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops.backends.reference import BACKEND as reference
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
