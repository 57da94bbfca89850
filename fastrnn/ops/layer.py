"""A layer as one step of autograd: the input's share, the loop over it, and the gradients of both.

Recorded piece by piece, a layer of few steps would spend most of its time on the records: of the
sum of the biases, the product, the views between it and the loop. So where nothing looks inside,
in eager mode on plain tensors, this records one node. Nothing is saved that the pieces would not
save, and the gradients are made of operations that have their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import dispatch
from .linear import is_recording, multiply
from .products import outer
from .recurrence import (
    NAMED,
    add_gradients,
    copy_on_write,
    recurrence_,
    transforming,
    without_autocast,
)
from .weight_gradient import weight_gradient

_linear = torch.ops.fastrnn.linear.default

#: Forward and backward, by the name of the backend that was asked for: who served the one serves
#: the other, whatever is asked for by then.
_RECURRENCES = {
    name: (
        getattr(torch.ops.fastrnn, op).default,
        getattr(torch.ops.fastrnn, f"{op}_backward").default,
    )
    for name, op in (
        *((name, "recurrence") for name in ("auto", "cpp")),
        *((name, f"recurrence_{name}") for name in NAMED),
    )
}

#: Within, nothing is recorded, nor that a result is a view of what nobody else holds: users may
#: write to it as to any other.
_unrecorded = torch._C._AutoDispatchBelowADInplaceOrView


def layer(
    input: Tensor,  # [T, B, I], or [N, I] with offsets
    h0: Tensor | None,  # [D, B, H]
    weights: Sequence[Tensor],  # per direction weight_ih, weight_hh and, or not, two biases
    lengths: Tensor | None,  # [B]
    offsets: Tensor | None,  # [T]
    resets: Tensor | None,  # [T, B], or [N] with offsets
    activation: int,
    directions: int,
) -> tuple[Tensor, Tensor]:
    """A layer's output, [T, B, D·H] or [N, D·H], and h_n [D, B, H]. All tensors are plain."""
    arguments = (lengths, offsets, resets, activation, directions, input, h0, *weights)
    if is_recording(*weights, input, h0):
        output, h_n, *_ = _Layer.apply(*arguments)
        return output, h_n
    with _unrecorded():
        output, h_n, _ = _forward(*arguments)
    return output, h_n


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        with _unrecorded():
            output, h_n, state = _forward(*arguments)
            kept = copy_on_write(output)
        lengths, offsets, resets, ctx.activation, ctx.directions, input, h0, *weights = arguments
        # Of the biases the gradients do not depend.
        first = len(weights) // ctx.directions
        weights = weights[:2] if ctx.directions == 1 else weights[:2] + weights[first : first + 2]
        ctx.starts_from_zero = h0 is None
        ctx.backend = dispatch.requested()
        start = state if h0 is None else h0
        ctx.save_for_backward(kept, start, lengths, offsets, resets, input, *weights)
        ctx.set_materialize_grads(False)
        return output, h_n, *(() if kept is output else (kept,))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # activation checkpointing records it anew, with autograd
        if torch.is_grad_enabled() or transforming():  # for double backward, or a tangent
            return _gradients(ctx, saved, *grads)
        with _unrecorded():
            return _gradients(ctx, saved, *grads)


@without_autocast
def _forward(
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    activation: int,
    directions: int,
    input: Tensor,
    h0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """output, h_n, and the initial state [B, G, H/n]."""
    weight_ih, weight_hh, bias = merge_directions(weights, directions)
    groups, size, _ = weight_hh.shape
    pre = (_linear if input.is_cpu else F.linear)(input, weight_ih, bias)
    if offsets is None or lengths is None:
        steps, batch, _ = pre.shape
        in_groups = pre.view(steps, batch, groups, size)
    else:
        batch = lengths.shape[0]
        in_groups = pre.view(-1, groups, size)
    state = input.new_zeros(batch, groups, size) if h0 is None else _as_state(h0, groups, size)
    options = activation, groups // directions
    if offsets is None and dispatch.requested() not in NAMED:
        # In the place of pre, which nobody else holds: out's memory need not be fresh.
        h_n = recurrence_(in_groups, weight_hh, state, lengths, resets, *options)
        output = pre
    else:
        recurrence, _ = _RECURRENCES[dispatch.requested()]
        out, h_n = recurrence(in_groups, weight_hh, state, lengths, offsets, resets, *options)
        output = out.view(pre.shape)
    return output, _as_h0(h_n, directions).contiguous(), state


@without_autocast
def _gradients(
    ctx: Any,
    saved: tuple[Any, ...],
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_kept: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    output, start, lengths, offsets, resets, input, *weights = saved
    if grad_output is None or grad_kept is not None:
        grad_output = add_gradients(grad_output, grad_kept, like=output)
    directions = ctx.directions
    weight_ih, weight_hh, _ = merge_directions(weights, directions)
    groups, size, _ = weight_hh.shape
    state = start if ctx.starts_from_zero else _as_state(start, groups, size)
    out = output.reshape(*output.shape[:-1], groups, size)
    _, recurrence_backward = _RECURRENCES[ctx.backend]
    grad_pre, grad_state = recurrence_backward(
        grad_output.reshape(out.shape),
        torch.zeros_like(state) if grad_h_n is None else _as_state(grad_h_n, groups, size),
        out,
        weight_hh,
        state,
        lengths,
        offsets,
        resets,
        ctx.activation,
        groups // directions,
    )
    *_, of_input, of_h0 = ctx.needs_input_grad[:_WEIGHTS]
    wanted = ctx.needs_input_grad[_WEIGHTS:]
    count = len(wanted) // directions
    rows = grad_pre.reshape(-1, groups * size)
    grad_input = multiply(rows, weight_ih).reshape(input.shape) if of_input else None
    grad_h0 = _as_h0(grad_state, directions) if of_h0 else None
    of_weights: list[Sequence[Tensor | None]] = [[None] * directions] * count
    if any(wanted[::count]):
        gradient = outer((rows, input.reshape(-1, input.shape[-1])))
        of_weights[0] = _apart(gradient, weights[0].shape, directions)
    if any(wanted[1::count]):
        ragged = lengths, offsets, resets, groups // directions
        gradient = weight_gradient(grad_pre, out, state, *ragged, ctx.starts_from_zero)
        of_weights[1] = _apart(gradient, weights[1].shape, directions)
    if count > 2 and (any(wanted[2::count]) or any(wanted[3::count])):
        gradient = rows.sum(0)
        # Users may clip one gradient in place, or free it: no two share memory.
        of_weights[2:] = [
            _apart(x, weights[0].shape[:1], directions) for x in (gradient, gradient.clone())
        ]
    grad_weights = [kind[d] for d in range(directions) for kind in of_weights]
    return None, None, None, None, None, grad_input, grad_h0, *grad_weights


#: Where the weights begin, among the arguments.
_WEIGHTS = 7


def merge_directions(
    weights: Sequence[Tensor], directions: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One layer's parameters as weight_ih [D·H, I], weight_hh [D·n, H/n, H/n] and bias [D·H]."""
    if directions == 1:
        weight_hh = weights[1]
        if weight_hh.dim() == 2:
            weight_hh = weight_hh.unsqueeze(0)
        return weights[0], weight_hh, weights[2] + weights[3] if len(weights) > 2 else None
    half = len(weights) // 2
    weight_ih, weight_hh, bias = merge_directions(weights[:half], 1)
    weight_ih_r, weight_hh_r, bias_r = merge_directions(weights[half:], 1)
    if bias is not None and bias_r is not None:
        bias = torch.cat((bias, bias_r))
    return torch.cat((weight_ih, weight_ih_r)), torch.cat((weight_hh, weight_hh_r)), bias


def _apart(x: Tensor, shape: Sequence[int], directions: int) -> Sequence[Tensor]:
    """A tensor of this shape for each direction, with memory of its own."""
    if directions == 1:
        return (x.reshape(shape),)
    return [part.clone() for part in x.reshape(directions, *shape).unbind()]


def _as_state(x: Tensor, groups: int, size: int) -> Tensor:
    """[D, B, H] -> [B, G, H/n]."""
    directions, batch, _ = x.shape
    if directions > 1:
        x = x.transpose(0, 1)
    return x.reshape(batch, groups, size)


def _as_h0(x: Tensor, directions: int) -> Tensor:
    """[B, G, H/n] -> [D, B, H]."""
    batch, groups, size = x.shape
    if directions == 1:
        return x.reshape(1, batch, groups * size)
    return x.reshape(batch, directions, groups * size // directions).transpose(0, 1)
