"""The operators ``fastrnn::layer`` and ``layer_backward``: a stack of layers in one eager call.

Separate operators and autograd nodes for the projections, the recurrences and the views would take
most of the time of a short call. So in eager mode, on plain tensors, a stack is one operator and
one autograd node. The CPU and the CUDA kernels implement the operators. `composite_layer` computes
the same with other kernels, and `traceable_layer` with operations that torch.compile, torch.func
and torch.export can see.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import composite_layer
from ._eager import copy_on_write, is_recording
from ._torch_private import (
    apply_outside_transforms,
    below_views,
    builtin,
    is_batched,
    is_transforming,
)
from .arguments import State
from .backends import cpu, cuda, dispatch
from .cells import CELLS
from .composite_layer import BIASES, INPUT, LEAK, STATES, WEIGHT_HH, WEIGHT_IH
from .ragged import Ragged
from .recurrence import LIBRARY
from .traceable_layer import traceable_stack

_ARGUMENTS = (
    "Tensor input, Tensor[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? offsets, "
    "Tensor? resets, int mode, int num_layers, int directions, bool reduced_precision"
)


def _fake(
    input: Tensor,
    weights: Sequence[Tensor],
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    mode: int,
    num_layers: int,
    directions: int,
    reduced_precision: bool,  # may round the factors of float32: to bfloat16 or tf32
    save: bool,
) -> list[Tensor]:
    cell, rows = CELLS[mode], input.shape[:-1]
    width = directions * weights[0].shape[0] // cell.gates
    batch = Ragged(lengths, offsets, resets).batch(input)

    def state() -> Tensor:
        return input.new_empty(num_layers * directions, batch, width // directions)

    weight_hh = weights[1]
    size = weight_hh.shape[-1]
    grouped = *rows, width // size
    saved = []
    for k in range(num_layers if save else 0):
        saved += [input.new_empty(*rows, width)] * (k + 1 < num_layers)
        saved += [input.new_empty(*grouped, cell.gates * size)] * cell.saves
        saved += [input.new_empty(*grouped, size)] * cell.has_inner
    states = [state(), state()] if cell.has_c else [state()]
    return [input.new_empty(*rows, width), *states, *saved]


def _fake_backward(*given: Any) -> list[Tensor]:
    output, _, input, weights, h0, *_, mode, num_layers, directions, _, needs = given[3:]
    results = [input.new_empty(input.shape)] if needs & INPUT else []
    if needs & STATES:
        results += [h0.new_empty(h0.shape) for _ in range(1 + CELLS[mode].has_c)]
    count = len(weights) // (num_layers * directions)
    kinds = _kinds(count, mode)
    wanted = [x for k, x in enumerate(weights) if needs & kinds[k % count]]
    return results + [output.new_empty(x.shape) for x in wanted]


def _kinds(count: int, mode: int) -> list[int]:
    """Return the bit of `needs` for each weight of a layer in one direction."""
    kinds = [WEIGHT_IH, WEIGHT_HH] + [BIASES] * (count - count % 2 - 2)
    return [*kinds, LEAK] if CELLS[mode].is_leaky else kinds


def _define(name: str, arguments: str, fake: Any) -> Any:
    LIBRARY.define(f"{name}({arguments}) -> Tensor[]")
    torch.library.register_fake(f"fastrnn::{name}", fake, lib=LIBRARY)
    # torch's fallback for operators without a derivative would take longer than a short call.
    LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    return builtin(getattr(torch.ops.fastrnn, name).default)


_forward = _define("layer", f"{_ARGUMENTS}, bool save", _fake)
_backward = _define(
    "layer_backward",
    "Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor output, Tensor[] saved, "
    f"{_ARGUMENTS}, int needs",
    _fake_backward,
)


def layer(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],  # per layer as in `merge_directions`
    ragged: Ragged,
    mode: int,
    num_layers: int,
    directions: int,
) -> tuple[Tensor, State]:
    """Compute `traceable_stack` where all tensors are plain (`_eager.is_plain`).

    On a CPU, input may be a single step [B, I]. Then the output is [B, D·H].
    """
    h0, c0 = hx or _NO_STATE
    if is_recording(*weights, input, h0, c0):
        output, *last = _apply(ragged, mode, num_layers, directions, input, h0, c0, *weights)
        return output, State(*last)
    forward, _, reduced_precision = _operators(input, weights, ragged, mode, training=False)
    options = mode, num_layers, directions, reduced_precision
    output, *last = forward(input, weights, h0, c0, *ragged, *options, False)
    return output, State(*last)


def _operators(
    input: Tensor, weights: Sequence[Tensor], ragged: Ragged, mode: int, training: bool
) -> tuple[Any, Any, bool]:
    """Return what computes the layer and its backward, and their `reduced_precision`."""
    if input.is_cpu:
        return _forward, _backward, cpu.allows_bfloat16_products()
    name = dispatch.requested()
    if name == cuda.BACKEND.name and cuda.serves_layers(input, weights, ragged, mode, training):
        return _forward, _backward, cuda.allows_tf32(input)
    # The backward uses the same backend, even if another one is requested by then.
    backward = functools.partial(composite_layer.backward, backend=dispatch.number_by_name(input))
    return composite_layer.forward, backward, False


_NO_STATE = None, None


class _Layer(torch.autograd.Function):
    """A stack of layers as one autograd node."""

    @staticmethod
    def forward(
        ctx: Any, ragged: Ragged, mode: int, num_layers: int, directions: int, *tensors: Any
    ) -> tuple[Tensor, ...]:
        input, h0, c0, *weights = tensors
        forward, ctx.operator, reduced_precision = _operators(
            input, weights, ragged, mode, training=True
        )
        ctx.options = mode, num_layers, directions, reduced_precision
        results = forward(input, weights, h0, c0, *ragged, *ctx.options, True)
        count = 3 if CELLS[mode].has_c else 2
        with below_views():
            output = copy_on_write(results[0])
        ctx.save_for_backward(output, *ragged, *tensors, *results[count:])
        ctx.set_materialize_grads(False)
        return tuple(results[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transforming() or any(map(_is_batched, grads)):
            return _differentiable_gradients(ctx, saved, grads)
        options = ctx.options
        needs, found_at = _wanted(ctx.needs_input_grad[_FIRST_TENSOR:], *options[:3])
        end = _FIRST_SAVED_TENSOR + len(found_at)
        output, lengths, offsets, resets, input, h0, c0 = saved[:_FIRST_SAVED_WEIGHT]
        tensors = output, saved[end:], input, saved[_FIRST_SAVED_WEIGHT:end], h0, c0
        given = *(*grads, None)[:3], *tensors, lengths, offsets, resets, *options, needs
        found = ctx.operator(*given)
        found.append(None)
        return None, None, None, None, *[found[i] for i in found_at]


_apply = apply_outside_transforms(_Layer)

#: The indices of the first tensor among the arguments of _Layer, and of the first tensor and the
#: first weight among those that it saves.
_FIRST_TENSOR, _FIRST_SAVED_TENSOR, _FIRST_SAVED_WEIGHT = 4, 4, 7


def _is_batched(grad: Tensor | None) -> bool:
    return grad is not None and is_batched(grad)


@functools.lru_cache
def _wanted(
    needs_grad: Sequence[bool], mode: int, num_layers: int, directions: int
) -> tuple[int, list[int]]:
    """Return `needs`, and where each gradient of input, h0, c0 and the weights is in the result.

    -1 is the place of a None at its end.
    """
    kinds = _kinds(len(needs_grad[3:]) // (num_layers * directions), mode)
    states = [STATES, STATES if CELLS[mode].has_c else 0]
    kind_of = [INPUT, *states, *(kinds * num_layers * directions)]
    needs = 0
    for kind, needed in zip(kind_of, needs_grad, strict=True):
        needs |= kind * needed
    found_at, count = [], 0
    for kind, needed in zip(kind_of, needs_grad, strict=True):
        found_at.append(count if needed else -1)
        count += bool(needs & kind)
    return needs, found_at


def _differentiable_gradients(
    ctx: Any, saved: Sequence[Any], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Compute the gradients by operations that can be differentiated or transformed themselves."""
    needs = ctx.needs_input_grad[_FIRST_TENSOR:]
    ragged = Ragged(*saved[1:_FIRST_SAVED_TENSOR])
    tensors = saved[_FIRST_SAVED_TENSOR : _FIRST_SAVED_TENSOR + len(needs)]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # As views, since an input may depend on another one.
        tensors = [x.view_as(x) if needed else x for x, needed in zip(tensors, needs, strict=True)]
        input, h0, c0, *weights = tensors
        hx = None if h0 is None else State(h0, c0)
        output, last = traceable_stack(input, hx, weights, ragged, None, *ctx.options[:3])
    pairs = [(x, grad) for x, grad in zip((output, *last), grads, strict=False) if grad is not None]
    found = iter(
        torch.autograd.grad(
            [x for x, _ in pairs],
            [x for x, needed in zip(tensors, needs, strict=True) if needed],
            [grad for _, grad in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return None, None, None, None, *(next(found) if needed else None for needed in needs)
