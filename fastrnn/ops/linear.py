"""The operator ``fastrnn::linear``: torch's linear for CPU tensors, with a fixed summation order.

The result of a row does not depend on the number of rows: a single step and the same step within a
sequence agree bit for bit. torch's matrix products do not guarantee this. In half precision, sums
are accumulated in float32 and rounded once.
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
    """Multiply rows [M, N] by weight [N, K] -> [M, K] for gradients, by the faster product."""
    if not is_slow(rows):
        return torch.mm(rows, weight)
    if is_transforming():  # the operator has no rules for transforms
        return (rows.float() @ weight.float()).to(rows.dtype)
    return _operator(rows, weight.mT, None)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _ = inputs
    ctx.save_for_backward(input, weight)


def _gradients(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the gradients of input [..., K], weight [N, K] and bias [N] from grad [..., N]."""
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
    """The same as register_autograd generates, with less overhead per call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        with below_autograd():
            output = _operator(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(below_autograd_once(_gradients))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute input weight^T + bias [..., N] from input [..., K], weight [N, K] and bias [N].

    The operator serves CPU tensors that are all plain (`is_plain`), and compiled graphs in which
    torch's product would be slow. torch serves all other calls, and reports mismatched shapes.
    """
    fits = input.is_cpu and input.dim() > 0 and input.shape[-1] == weight.shape[-1]
    if fits and _is_slow_when_compiled(input, weight, bias):
        return _operator(input, weight, bias)
    if not fits or not is_plain(input, weight, bias):
        return F.linear(input, weight, bias)
    if is_recording(input, weight, bias):
        return _Eager.apply(input, weight, bias)
    with below_autograd():
        return _operator(input, weight, bias)


def _is_slow_when_compiled(input: Tensor, *others: Tensor | None) -> bool:
    """Whether torch's product is slow in a graph compiled for this machine, not for export."""
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and requested() in ("auto", "cpu")
        and is_slow(input)
        and all(other is None or other.dtype == input.dtype for other in others)
    )
