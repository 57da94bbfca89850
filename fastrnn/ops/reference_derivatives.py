"""Derivatives of the reference, for what no kernel computes: second derivatives and tangents.

Here the reference's `forward` and `backward` are functions of the tensors of the operators'
schemas, a list with None for each tensor that a call lacks. The derivatives are those of torch.func
with respect to all real tensors. They can be differentiated again, and support vmap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._eager import add_gradients
from .arguments import Arguments, Gradients, Outputs, State
from .cells.base import Step

#: A function of the tensors and the options, mode and reverse_from.
Function = Callable[..., tuple[Tensor | None, ...]]


def forward(tensors: Sequence[Any], *options: int) -> Outputs:
    """Compute `reference.forward` from the tensors of ``fastrnn::recurrence``."""
    pre, *rest = tensors
    return reference.forward(pre, Arguments(*rest, *options))


def backward(tensors: Sequence[Any], *options: int) -> Gradients:
    """Compute `reference.backward` from the tensors of ``fastrnn::recurrence_backward``."""
    grad_out, grad_h_n, grad_c_n, out, gates, inner, *rest = tensors
    grads, saved = Outputs(grad_out, grad_h_n, grad_c_n), Step(State(out), gates, inner)
    return reference.backward(grads, saved, Arguments(*rest, *options))


def vjp(
    function: Function,
    tensors: Sequence[Tensor | None],
    options: Sequence[int],
    cotangents: Sequence[Tensor | None],  # of the results; None: 0
) -> list[Tensor | None]:
    """Return the gradients of the tensors; None for those without."""
    of_real, real, present = _of_real(function, tensors, options)
    outputs, pull = torch.func.vjp(of_real, *(tensors[i] for i in real))[:2]
    given = itertools.compress(cotangents, present)
    filled = (add_gradients(u, like=x) for u, x in zip(given, outputs, strict=True))
    gradients: list[Tensor | None] = [None] * len(tensors)
    for i, gradient in zip(real, pull(tuple(filled)), strict=True):
        gradients[i] = gradient
    return gradients


def jvp(
    function: Function,
    tensors: Sequence[Tensor | None],
    options: Sequence[int],
    tangents: Sequence[Tensor | None],  # of the tensors; None: 0
) -> list[Tensor | None]:
    """Return the tangents of the results; None for those that the call lacks.

    The reverse derivative is u -> u^T J. That is linear in u, and its own reverse derivative is
    t -> J t. Unlike torch.func.jvp, this works where forward mode is already in use, which has a
    single level.
    """
    of_real, real, present = _of_real(function, tensors, options)
    primals = [tensors[i] for i in real]
    outputs, pull = torch.func.vjp(of_real, *primals)[:2]
    push = torch.func.vjp(lambda *u: pull(u), *map(torch.zeros_like, outputs))[1]
    given = (tangents[i] for i in real)
    filled = (add_gradients(t, like=x) for t, x in zip(given, primals, strict=True))  # type: ignore[arg-type]
    found = iter(push(tuple(filled)))
    return [next(found) if is_present else None for is_present in present]


def _of_real(
    function: Function, tensors: Sequence[Tensor | None], options: Sequence[int]
) -> tuple[Callable[..., tuple[Tensor, ...]], list[int], list[bool]]:
    """Return the function of the real tensors that returns the results that are present.

    Also return the indices of these tensors and, filled in when the function runs, whether each
    result is present.
    """
    real = [i for i, x in enumerate(tensors) if x is not None and x.is_floating_point()]
    present: list[bool] = []

    def of_real(*chosen: Tensor) -> tuple[Tensor, ...]:
        given = list(tensors)
        for i, x in zip(real, chosen, strict=True):
            given[i] = x
        results = function(given, *options)
        present[:] = (x is not None for x in results)
        return tuple(x for x in results if x is not None)

    return of_real, real, present
