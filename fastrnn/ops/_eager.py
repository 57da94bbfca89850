"""Eager autograd with little overhead: one node for many operations, which run below autograd.

A way through the dispatcher's Autograd key costs a short call 70 µs for forward and backward, on a
machine where all else takes as long again. Where nothing traces or transforms the operations, an
`autograd.Function` does the same for a tenth of that.
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
    """Whether an operation on them records a gradient."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # not any(): a generator would cost a short call 1 µs
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def is_eager() -> bool:
    """Whether nothing compiles, traces or transforms."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transforming())


def is_plain(input: Tensor, *others: Tensor | None) -> bool:
    """Whether operators may be called below autograd: no kernel is missing for these tensors.

    What compiles, transforms or traces knows torch's own operations better.
    """
    return is_eager() and are_plain(input, *others)


def are_plain(input: Tensor, *others: Tensor | None) -> bool:
    """What `is_plain` asks of the tensors.

    Subclasses of Tensor know torch's own operations better. A dispatch mode sees the operators of
    either path. It must not choose the path: a checkpoint saves under a mode what it recomputes
    without. All tensors must be of one device and of one dtype, which kernels serve there.
    """
    if input.is_cpu and requested() not in ("auto", "cpu"):
        return False
    dtype, device = input.dtype, input.get_device()
    for tensor in (input, *others):
        if tensor is not None and not (
            type(tensor) in _TYPES
            and tensor.dtype is dtype
            and tensor.get_device() == device
            and tensor.layout is _STRIDED
        ):
            return False
    if input.is_cpu:
        return cpu.BACKEND.serves(dtype)
    return input.is_cuda and dtype.is_floating_point


_TYPES, _STRIDED = (Tensor, torch.nn.Parameter), torch.strided


def below_autograd_once(gradients: Callable) -> Callable:
    """An autograd.Function's backward: below autograd, unless it is itself differentiated.

    `gradients` is a function of (ctx, saved, *grads).
    """

    @functools.wraps(gradients)
    def backward(ctx: Any, *grads: Any) -> Any:
        saved = ctx.saved_tensors  # activation checkpointing records it again, with autograd
        if torch.is_grad_enabled() or is_transforming():  # for double backward, or a tangent
            return gradients(ctx, saved, *grads)
        with below_views():
            return gradients(ctx, saved, *grads)

    return backward


def copy_on_write(output: Tensor) -> Tensor:
    """A copy for the backward, which is made only if a user writes to the output.

    nn.RNN allows that on the CPU. On a GPU, where cuDNN does not, it is the output itself: a
    Triton kernel that reads a copy would have it made.
    """
    if type(output) is Tensor and output.is_cpu:
        return lazy_clone(output)
    return output


def add_gradients(*grads: Tensor | None, like: Tensor) -> Tensor:
    """The sum of the gradients that are not None: of none, zeros."""
    given = [grad for grad in grads if grad is not None]
    return sum(given[1:], given[0]) if given else torch.zeros_like(like)
