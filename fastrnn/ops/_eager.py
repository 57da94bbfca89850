"""Low-overhead eager autograd: one autograd node for several operations that run below autograd.

Dispatching through the Autograd key adds 70 µs to the forward and backward of a short call, on a
machine where the rest of the call takes as long again. When no operation is traced or transformed,
an `autograd.Function` does the same at a tenth of that cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._torch_private import below_views, is_transforming, lazy_clone
from .backends import cpu
from .backends.dispatch import requested


def is_recording(*tensors: Tensor | None) -> bool:
    """Whether autograd records an operation on these tensors."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # not any(): its generator would add 1 µs to a short call
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def is_eager() -> bool:
    """Whether no compilation, tracing or transform is active."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transforming())


def is_plain(input: Tensor, *others: Tensor | None) -> bool:
    """Whether operators may be called below autograd: eager mode, and a kernel for these tensors.

    Compilers, tracers and transforms handle torch's own operations better.
    """
    return is_eager() and are_plain(input, *others)


def are_plain(input: Tensor, *others: Tensor | None) -> bool:
    """Whether the tensors satisfy the conditions of `is_plain`.

    Subclasses of Tensor handle torch's own operations better. A dispatch mode sees the operators
    of either path, and must not change which path runs: activation checkpointing saves under a
    mode and recomputes without it. All tensors must share one device and one dtype that the
    kernels support there.
    """
    if input.is_cpu and requested() not in ("auto", "cpu"):
        return False
    dtype, device = input.dtype, input.get_device()
    for tensor in (input, *others):
        if tensor is not None and not (
            type(tensor) in PLAIN_TYPES
            and tensor.dtype is dtype
            and tensor.get_device() == device
            and tensor.layout is _STRIDED
        ):
            return False
    if input.is_cpu:
        return cpu.BACKEND.serves(dtype)
    return input.is_cuda and dtype.is_floating_point


#: The types of tensors whose operators nothing intercepts.
PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_STRIDED = torch.strided


def below_autograd_once(gradients: Callable) -> Callable:
    """Make the backward of an autograd.Function run below autograd, unless it is differentiated.

    `gradients` is a function of (ctx, saved, *grads).
    """

    @functools.wraps(gradients)
    def backward(ctx: Any, *grads: Any) -> Any:
        saved = ctx.saved_tensors  # before below_views: checkpointing recomputes them with autograd
        if torch.is_grad_enabled() or is_transforming():  # double backward, or forward mode
            return gradients(ctx, saved, *grads)
        with below_views():
            return gradients(ctx, saved, *grads)

    return backward


def copy_on_write(output: Tensor) -> Tensor:
    """Return a copy-on-write copy of the output for the backward, so that users may write to it.

    nn.RNN allows such writes on the CPU. On a GPU, where cuDNN does not, return the output itself:
    a Triton kernel that reads a copy-on-write copy would materialize it.
    """
    if type(output) is Tensor and output.is_cpu:
        return lazy_clone(output)
    return output


def add_gradients(*grads: Tensor | None, like: Tensor) -> Tensor:
    """Sum the gradients that are not None; return zeros like `like` if there are none."""
    given = [grad for grad in grads if grad is not None]
    return sum(given[1:], given[0]) if given else torch.zeros_like(like)
