"""A kernel against the float64 reference. Needs only torch: a GPU's machine may lack the rest."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops import reference
from fastrnn.testing import Problem, assert_close


def double(*tensors: Tensor) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def biggest(*tensors: Tensor) -> float:
    return sum(float(t.abs().max()) for t in tensors if t.numel())


def check_forward(
    module: Any, problem: Problem, device: str = "cpu", mode: str | None = None, **options: Any
) -> None:
    """`module.forward`, a backend's or a kernel's; `options` are passed on to it."""
    pre, weight_hh, h0, *ragged = problem.tensors(device)
    out, h_n = module.forward(pre, weight_hh, h0, *ragged, *problem.options, **options)
    expected = reference.forward(*double(pre, weight_hh, h0), *ragged, *problem.options)
    scale = biggest(pre, h0, expected[0])
    assert_close(out, expected[0], problem, scale, mode)
    assert_close(h_n, expected[1], problem, scale, mode)


def check_backward(
    module: Any, problem: Problem, device: str = "cpu", mode: str | None = None, **options: Any
) -> None:
    """`module.backward`, given what the reference's forward returns."""
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
    """relu hands on what reaches a state of NaN, and where the state is 0 nothing at all."""
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


#: Forward and backward, to be parametrized over.
CHECKS: list[Callable[..., None]] = [check_forward, check_backward]
