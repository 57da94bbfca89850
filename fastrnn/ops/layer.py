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

from .linear import is_recording
from .recurrence import transforming, without_autocast
from .weight_gradient import weight_gradient

_linear = torch.ops.fastrnn.linear.default
_recurrence = torch.ops.fastrnn.recurrence.default
_recurrence_ = torch.ops.fastrnn.recurrence_.default
_recurrence_backward = torch.ops.fastrnn.recurrence_backward.default
_as_own = torch.ops.aten._unsafe_view.default


def layer(
    input: Tensor,  # [T, B, I], or [N, I] with offsets
    h0: Tensor | None,  # [D, B, H]
    weights: Sequence[Tensor],  # per direction weight_ih, weight_hh and, or not, two biases
    lengths: Tensor | None,  # [B]
    offsets: Tensor | None,  # [T]
    resets: Tensor | None,  # [T, B], or [N] with offsets
    activation: str,
    directions: int,
) -> tuple[Tensor, Tensor]:
    """One layer's output [T, B, D·H], or [N, D·H], and h_n [D, B, H]; tensors that are plain."""
    arguments = (lengths, offsets, resets, activation, directions, input, h0, *weights)
    if is_recording(input, h0, *weights):
        return _Layer.apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return _forward(*arguments)[:2]


@without_autocast
def _forward(
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    activation: str,
    directions: int,
    input: Tensor,
    h0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """output, h_n, and h0 or what stands for it. No result is a view, for users may write to it."""
    weight_ih, weight_hh, bias = merge_directions(weights, directions)
    groups, size = weight_hh.shape[:2]
    if input.is_cpu:
        pre = _linear(input, weight_ih, bias)
    else:
        pre = F.linear(input, weight_ih, bias)
    if h0 is None:
        batch = input.shape[1] if lengths is None or offsets is None else lengths.shape[0]
        h0 = input.new_zeros(directions, batch, groups * size // directions)
    state = _to_state(h0, weight_hh)
    options = activation, groups // directions
    in_groups = pre.view(*pre.shape[:-1], groups, size)
    if offsets is None:
        # In the place of pre: out's memory need not be fresh.
        h_n = _recurrence_(in_groups, weight_hh, state, lengths, resets, *options)
        output = pre if input.is_cpu else _as_own(pre, pre.shape)
    else:
        out, h_n = _recurrence(in_groups, weight_hh, state, lengths, offsets, resets, *options)
        output = _as_own(out, pre.shape)
    if directions == 1:
        return output, _as_own(h_n, h0.shape), h0
    return output, _from_state(h_n, h0).contiguous(), h0


@without_autocast
def _gradients(
    ctx: Any, saved: tuple[Any, ...], grad_output: Tensor, grad_h_n: Tensor
) -> tuple[Tensor | None, ...]:
    output, input, h0, lengths, offsets, resets, *weights = saved
    directions, ragged = ctx.directions, (lengths, offsets, resets)
    wanted, *wanted_weights = ctx.needs_input_grad[_TENSORS], *ctx.needs_input_grad[_TENSORS + 2 :]
    weight_ih, weight_hh, _ = merge_directions(weights, directions)
    groups, size = weight_hh.shape[:2]
    reverse_from = groups // directions
    state = _to_state(h0, weight_hh)
    out = output.reshape(*output.shape[:-1], groups, size)
    grad_pre, grad_state = _recurrence_backward(
        grad_output.reshape(out.shape),
        _to_state(grad_h_n, weight_hh),
        out,
        weight_hh,
        state,
        *ragged,
        ctx.activation,
        reverse_from,
    )
    rows = grad_pre.reshape(-1, groups * size)
    grad_input = (rows @ weight_ih).reshape(input.shape) if wanted else None
    grad_h0 = _from_state(grad_state, h0) if ctx.needs_input_grad[_TENSORS + 1] else None
    per_direction = len(wanted_weights) // directions
    gradients: list[Any] = [[None] * directions] * per_direction
    if any(wanted_weights[::per_direction]):
        gradient = rows.mT @ input.reshape(-1, input.shape[-1])
        gradients[0] = _apart(gradient, weights[0].shape, directions)
    if any(wanted_weights[1::per_direction]):
        gradient = weight_gradient(grad_pre, out, state, *ragged, reverse_from)
        gradients[1] = _apart(gradient, weights[1].shape, directions)
    if any(wanted_weights[2::per_direction]) or any(wanted_weights[3::per_direction]):
        if per_direction == 4:
            sums = _apart(rows.sum(0), weights[0].shape[:1], directions)
            gradients[2:] = [sums, sums]
    grad_weights = [gradients[i][d] for d in range(directions) for i in range(per_direction)]
    return None, None, None, None, None, grad_input, grad_h0, *grad_weights


#: Where the tensors that have gradients begin, among the arguments.
_TENSORS = 5


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        lengths, offsets, resets, ctx.activation, ctx.directions, input, _, *weights = arguments
        with torch._C._AutoDispatchBelowAutograd():
            output, h_n, h0 = _forward(*arguments)
        per_direction = len(weights) // ctx.directions
        kept = [w for first in range(0, len(weights), per_direction) for w in weights[first:first+2]]
        ctx.save_for_backward(output, input, h0, lengths, offsets, resets, *kept)
        return output, h_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # activation checkpointing records it anew, with autograd
        if torch.is_grad_enabled() or transforming():  # for double backward, or a tangent
            return _gradients(ctx, saved, *grads)
        with torch._C._AutoDispatchBelowAutograd():
            return _gradients(ctx, saved, *grads)


def merge_directions(
    weights: Sequence[Tensor], directions: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One layer's parameters as weight_ih [D·H, I], weight_hh [D·n, H/n, H/n] and bias [D·H]."""
    if directions == 1:
        weight_ih, weight_hh, *biases = weights
        if weight_hh.dim() == 2:
            weight_hh = weight_hh.unsqueeze(0)
        return weight_ih, weight_hh, biases[0] + biases[1] if biases else None
    half = len(weights) // 2
    pairs = zip(merge_directions(weights[:half], 1), merge_directions(weights[half:], 1))
    weight_ih, weight_hh, bias = (None if a is None else torch.cat((a, b)) for a, b in pairs)
    return weight_ih, weight_hh, bias


def _apart(x: Tensor, shape: Sequence[int], directions: int) -> Sequence[Tensor]:
    """What `merge_directions` has merged: a tensor of that shape for each direction."""
    if directions == 1:
        return (x.reshape(shape),)
    return x.reshape(directions, *shape).unbind()


def _to_state(x: Tensor, weight_hh: Tensor) -> Tensor:
    """[D, B, H] -> [B, G, H/n]."""
    if x.shape[0] > 1:
        x = x.transpose(0, 1)
        return x.reshape(x.shape[0], *weight_hh.shape[:2])
    return x.reshape(x.shape[1], *weight_hh.shape[:2])


def _from_state(x: Tensor, like: Tensor) -> Tensor:
    """[B, G, H/n] -> `like`'s shape, [D, B, H]."""
    directions, batch, hidden_size = like.shape
    if directions == 1:
        return x.reshape(1, batch, hidden_size)
    return x.reshape(batch, directions, hidden_size).transpose(0, 1)
