"""The operator ``fastrnn::linear``: torch's linear for CPU tensors, in one order of summation.

A row's result does not depend on how many rows there are: the same bits for a step alone and
within a sequence, which torch's matrix products do not promise. In half precision the sums are
float32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._eager import below_autograd_once, is_plain, is_recording
from ._torch_private import below_autograd, is_transforming
from .backends.dispatch import requested
from .grad_matmul import is_slow, outer
from .recurrence import LIBRARY, overrule_wrong_extension


def _fake(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


LIBRARY.define(
    "linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("linear", F.linear, "CompositeExplicitAutograd")
torch.library.register_fake("fastrnn::linear", _fake, lib=LIBRARY)
overrule_wrong_extension({"linear": F.linear})
_operator = torch.ops.fastrnn.linear.default


def multiply(rows: Tensor, weight: Tensor) -> Tensor:
    """rows [M, N] weight [N, K] -> [M, K], for gradients: by torch where that is not slow."""
    if not is_slow(rows):
        return torch.mm(rows, weight)
    if is_transforming():  # for which the operator has no rules
        return (rows.float() @ weight.float()).to(rows.dtype)
    return _operator(rows, weight.mT, None)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _ = inputs
    ctx.save_for_backward(input, weight)


def _gradients(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of input [..., K], weight [N, K] and bias [N], from grad [..., N]."""
    input, weight = saved
    rows = grad.reshape(-1, weight.shape[0])
    grad_input = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_input = multiply(rows, weight).reshape(input.shape)
    if ctx.needs_input_grad[1]:
        grad_weight = outer((rows, input.reshape(-1, weight.shape[1])))[0]
    if ctx.needs_input_grad[2]:
        grad_bias = rows.sum(0)
    return grad_input, grad_weight, grad_bias


torch.library.register_autograd(
    "fastrnn::linear",
    lambda ctx, grad: _gradients(ctx, ctx.saved_tensors, grad),
    setup_context=_setup_context,
    lib=LIBRARY,
)


class _Eager(torch.autograd.Function):
    """What register_autograd generates, at less cost a call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        with below_autograd():
            output = _operator(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(below_autograd_once(_gradients))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """input [..., K], weight [N, K] and bias [N] -> input weight^T + bias, [..., N].

    By the operator on the CPU where all `is_plain`, and in graphs whose product would be slow;
    elsewhere, or if shapes do not fit, by torch.
    """
    fits = input.is_cpu and input.dim() > 0 and input.shape[-1] == weight.shape[-1]
    if fits and _compiling_slowly(input, weight, bias):
        return _operator(input, weight, bias)
    if not fits or not is_plain(input, weight, bias):
        return F.linear(input, weight, bias)
    if is_recording(input, weight, bias):
        return _Eager.apply(input, weight, bias)
    with below_autograd():
        return _operator(input, weight, bias)


def _compiling_slowly(input: Tensor, *others: Tensor | None) -> bool:
    """Whether in a graph for this machine, and not one for another, torch's product is slow."""
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and requested() in ("auto", "cpu")
        and is_slow(input)
        and all(other is None or other.dtype == input.dtype for other in others)
    )
