"""One layer: the input projection and the recurrence, in eager mode as one autograd node.

Separate nodes for the sum of the biases, the projection, the views and the recurrence would take
most of the time of a layer with few steps. So in eager mode, on plain tensors, `layer` records one
node. `traceable_layer` computes the same with operations that torch.compile, torch.func and
torch.export can see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from ._eager import add_gradients, below_autograd_once, copy_on_write, is_recording
from ._torch_private import below_views
from .autocast import without_autocast
from .backends import dispatch
from .backends.base import Call
from .grad_matmul import outer
from .linear import linear, multiply
from .ragged import Ragged
from .recurrence import recurrence, recurrence_by, recurrence_out
from .unaliased_grad import unaliased_grad
from .weight_grad import sequence_starts, weight_hh_grad


def traceable_layer(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    h0: Tensor | None,  # [D, B, H]
    weights: Sequence[Tensor],  # per direction weight_ih, weight_hh and optionally two biases
    ragged: Ragged,
    reset_to: Tensor | None,  # [D, H]
    activation: int,
    directions: int,
) -> tuple[Tensor, Tensor]:
    """Return a layer's output, [T, B, D·H] or [N, D·H], and h_n [D, B, H]."""
    weights = [unaliased_grad(weight) for weight in weights]
    output, h_n, _ = _forward(
        linear, traceable_recurrence, input, h0, weights, ragged, reset_to, activation, directions
    )
    return output, h_n


def layer(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    h0: Tensor | None,  # [D, B, H]
    weights: Sequence[Tensor],  # per direction weight_ih, weight_hh and optionally two biases
    ragged: Ragged,
    activation: int,
    directions: int,
) -> tuple[Tensor, Tensor]:
    """Compute `traceable_layer` where all tensors are plain (`_eager.is_plain`)."""
    if is_recording(*weights, input, h0):
        arguments = ragged, activation, directions, *ragged, input, h0, *weights
        output, h_n, *_ = _Layer.apply(*arguments)
        return output, h_n
    with below_views():
        output, h_n, _ = _eager_forward(input, h0, weights, ragged, activation, directions)
    return output, h_n


def _forward(
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    recur: Callable[[Tensor, Tensor, Tensor, Ragged, int, int], tuple[Tensor, Tensor]],
    input: Tensor,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: Tensor | None,
    activation: int,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, h_n and the initial state [B, G, H/n].

    `linear` and `recur` determine how autograd records the result.
    """
    weight_ih, weight_hh, bias = merge_directions(weights, directions)
    # A group is a head of a direction, G = D·n: [.., D·H] -> [.., G, H/n].
    groups, size, _ = weight_hh.shape
    heads = groups // directions
    pre = linear(input, weight_ih, bias)
    if ragged.offsets is None:
        steps, batch, _ = pre.shape
        pre = pre.reshape(steps, batch, groups, size)
    else:
        batch = ragged.batch(pre)
        pre = pre.reshape(-1, groups, size)
    state = input.new_zeros(batch, groups, size) if h0 is None else _as_state(h0, groups, size)
    if ragged.resets is not None and reset_to is not None:
        pre = _add_reset_state(reset_to.reshape(groups, size), pre, weight_hh, ragged, heads)
    out, h_n = recur(pre, weight_hh, state, ragged, activation, heads)
    return out.flatten(-2), _as_h0(h_n, directions).contiguous(), state


def _add_reset_state(
    state: Tensor,  # [G, H]
    pre: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    weight_hh: Tensor,  # [G, H, H]
    ragged: Ragged,  # with resets
    reverse_from: int,
) -> Tensor:
    """Add W_hh state to pre where a sequence starts: the operator itself starts it from 0."""
    groups = weight_hh.shape[0]
    # [.., 1] if all groups start at the same steps, or [.., G].
    starts = sequence_starts(ragged, reverse=False).unsqueeze(-1)
    if reverse_from < groups:
        reverse_starts = sequence_starts(ragged, reverse=True).unsqueeze(-1)
        shape = starts.shape[:-1]
        starts = torch.cat(
            (
                starts.expand(*shape, reverse_from),
                reverse_starts.expand(*shape, groups - reverse_from),
            ),
            -1,
        )
    contribution = (weight_hh @ state.unsqueeze(-1)).squeeze(-1)  # [G, H]
    return torch.addcmul(pre, starts.unsqueeze(-1).to(pre.dtype), contribution)


def traceable_recurrence(
    pre: Tensor, weight_hh: Tensor, h0: Tensor, ragged: Ragged, activation: int, reverse_from: int
) -> tuple[Tensor, Tensor]:
    """Compute `fastrnn.functional.recurrence` with valid arguments."""
    out, h_n = _by_request(pre, weight_hh, h0, ragged, activation, reverse_from)
    if torch.compiler.is_compiling() and is_recording(pre, weight_hh, h0):
        out = out.clone()  # users may write to it, and the backward reads the operator's output
    return out, h_n


def _by_request(
    pre: Tensor, weight_hh: Tensor, h0: Tensor, ragged: Ragged, activation: int, reverse_from: int
) -> tuple[Tensor, Tensor]:
    """Run the recurrence with the requested backend."""
    number = dispatch.number_by_name(pre)
    if pre.is_complex():
        # The operator's backward supports real numbers only. Autograd can differentiate the
        # reference's forward directly.
        name = dispatch.requested()
        if name not in ("auto", "torch"):
            dispatch.for_recurrence(Call.of(pre, h0, ragged, activation), name)
        return reference.forward(pre, weight_hh, h0, ragged, activation, reverse_from)
    if number is not None:
        return recurrence_by(pre, weight_hh, h0, ragged, activation, reverse_from, number)
    return recurrence(pre, weight_hh, h0, ragged, activation, reverse_from)


def _in_place(
    pre: Tensor, weight_hh: Tensor, h0: Tensor, ragged: Ragged, activation: int, reverse_from: int
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in place: out reuses the memory of pre, which has no other user."""
    h_n = recurrence_out(pre, weight_hh, h0, *ragged, activation, reverse_from, out=pre)
    return pre, h_n


_linear = torch.ops.fastrnn.linear.default


@without_autocast
def _eager_forward(
    input: Tensor,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    ragged: Ragged,
    activation: int,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    # Not for packed data: rows that belong to no step must be 0. On the CPU, plain tensors imply
    # that the kernels registered as the operators serve the call.
    in_place = ragged.offsets is None and (input.is_cpu or dispatch.number_by_name(input) is None)
    return _forward(
        _linear if input.is_cpu else F.linear,
        _in_place if in_place else _by_request,
        input,
        h0,
        weights,
        ragged,
        None,
        activation,
        directions,
    )


class _Layer(torch.autograd.Function):
    """A layer as one autograd node. It saves no more than separate nodes would."""

    @staticmethod
    def forward(
        ctx: Any, ragged: Ragged, activation: int, directions: int, *tensors: Any
    ) -> tuple[Tensor, ...]:
        *_, input, h0 = tensors[:5]
        weights = tensors[5:]
        with below_views():
            output, h_n, state = _eager_forward(input, h0, weights, ragged, activation, directions)
            saved_output = copy_on_write(output)
        ctx.activation, ctx.directions, ctx.starts_from_zero = activation, directions, h0 is None
        # Gradients do not depend on the biases.
        first = len(weights) // directions
        weights = weights[:2] if directions == 1 else weights[:2] + weights[first : first + 2]
        # The backward uses the same backend, even if another one is requested by then.
        ctx.backend = dispatch.number_by_name(input)
        start = state if h0 is None else h0
        ctx.save_for_backward(saved_output, start, *ragged, input, *weights)
        ctx.set_materialize_grads(False)
        return output, h_n, *(() if saved_output is output else (saved_output,))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grads)


#: The index of the first weight among the arguments of _Layer.
_FIRST_WEIGHT = 8


@below_autograd_once
@without_autocast
def _gradients(
    ctx: Any,
    saved: tuple[Any, ...],
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_saved_output: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    output, start, lengths, offsets, resets, input, *weights = saved
    ragged = Ragged(lengths, offsets, resets)
    if grad_output is None or grad_saved_output is not None:
        grad_output = add_gradients(grad_output, grad_saved_output, like=output)
    directions = ctx.directions
    weight_ih, weight_hh, _ = merge_directions(weights, directions)
    groups, size, _ = weight_hh.shape
    heads = groups // directions
    state = start if ctx.starts_from_zero else _as_state(start, groups, size)
    out = output.reshape(*output.shape[:-1], groups, size)
    grad_state = torch.zeros_like(state) if grad_h_n is None else _as_state(grad_h_n, groups, size)
    grad_pre, grad_state = _recurrence_backward(ctx.backend)(
        grad_output.reshape(out.shape),
        grad_state,
        out,
        weight_hh,
        state,
        *ragged,
        ctx.activation,
        heads,
    )
    *_, input_needs_grad, h0_needs_grad = ctx.needs_input_grad[:_FIRST_WEIGHT]
    needs_grad = ctx.needs_input_grad[_FIRST_WEIGHT:]
    count = len(needs_grad) // directions
    rows = grad_pre.reshape(-1, groups * size)
    grad_input = multiply(rows, weight_ih).reshape(input.shape) if input_needs_grad else None
    grad_h0 = _as_h0(grad_state, directions) if h0_needs_grad else None
    by_kind: list[Sequence[Tensor | None]] = [[None] * directions] * count
    if any(needs_grad[::count]):
        gradient = outer((rows, input.reshape(-1, input.shape[-1])))
        by_kind[0] = _split_directions(gradient, weights[0].shape, directions)
    if any(needs_grad[1::count]):
        gradient = weight_hh_grad(grad_pre, out, state, ragged, heads, ctx.starts_from_zero)
        by_kind[1] = _split_directions(gradient, weights[1].shape, directions)
    if count > 2 and (any(needs_grad[2::count]) or any(needs_grad[3::count])):
        gradient = rows.sum(0)
        # No two gradients share memory: users may clip one in place, or free it.
        by_kind[2:] = [
            _split_directions(x, weights[0].shape[:1], directions)
            for x in (gradient, gradient.clone())
        ]
    grad_weights = [kind[d] for d in range(directions) for kind in by_kind]
    return *[None] * 6, grad_input, grad_h0, *grad_weights


def _recurrence_backward(number: int | None) -> Callable[..., tuple[Tensor, Tensor]]:
    if number is None:
        return recurrence.backward_operator
    return lambda *arguments: recurrence_by.backward_operator(*arguments, number)


def merge_directions(
    weights: Sequence[Tensor], directions: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Merge a layer's parameters: weight_ih [D·H, I], weight_hh [D·n, H/n, H/n], bias [D·H]."""
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


def _split_directions(x: Tensor, shape: Sequence[int], directions: int) -> Sequence[Tensor]:
    """Split x into one tensor of this shape per direction; they share no memory."""
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
