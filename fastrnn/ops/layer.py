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
from ._torch_private import apply_outside_transforms, below_views
from .arguments import Arguments, Gradients, Outputs, State
from .autocast import without_autocast
from .backends import dispatch
from .backends.base import Call
from .cells import CELLS
from .cells.base import Step
from .grad_matmul import outer
from .linear import linear, linear_below_autograd, multiply
from .parameters import merge_directions, split_biases, split_directions, split_rows
from .ragged import Ragged
from .recurrence import recurrence, recurrence_by, recurrence_out
from .unaliased_grad import unaliased_grad
from .weight_grad import sequence_starts, weight_hh_grad


def traceable_layer(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    hx: State | None,  # [D, B, H]
    weights: Sequence[Tensor],  # as in `merge_directions`
    ragged: Ragged,
    reset_to: State | None,  # [D, H]
    mode: int,
    directions: int,
) -> tuple[Tensor, State]:
    """Return a layer's output, [T, B, D·H] or [N, D·H], and its final state [D, B, H]."""
    weights = [unaliased_grad(weight) for weight in weights]
    tensors = input, hx, weights, ragged, reset_to
    return _forward(linear, traceable_recurrence, *tensors, mode, directions, False)[:2]


def layer(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    hx: State | None,  # [D, B, H]
    weights: Sequence[Tensor],  # as in `merge_directions`
    ragged: Ragged,
    mode: int,
    directions: int,
) -> tuple[Tensor, State]:
    """Compute `traceable_layer` where all tensors are plain (`_eager.is_plain`)."""
    h0, c0 = hx or (None, None)
    if is_recording(*weights, input, h0, c0):
        output, h_n, *more = _apply(ragged, mode, directions, input, h0, c0, *weights)
        return output, State(h_n, more[-1] if CELLS[mode].has_c else None)
    with below_views():
        output, last, *_ = _eager_forward(input, hx, weights, ragged, mode, directions, False)
    return output, last


def _forward(
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    recur: Callable[[Tensor, Arguments, bool], Outputs],
    input: Tensor,
    hx: State | None,
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: State | None,
    mode: int,
    directions: int,
    save: bool,  # passed on to recur
) -> tuple[Tensor, State, Tensor, Outputs]:
    """Return output, the final state and h0, and the results of the recurrence.

    The state is [D, B, H], and h0 [B, G, H/n]. `linear` and `recur` determine how autograd records
    the result.
    """
    cell = CELLS[mode]
    weight_ih, weight_hh, bias, unit_param = merge_directions(weights, directions, cell)
    # A group is a head of a direction, G = D·n: [.., D·K·H] -> [.., G, K·H/n].
    groups, _, size = weight_hh.shape
    heads = groups // directions
    pre = linear(input, weight_ih, bias)
    if ragged.offsets is None:
        batch = pre.shape[1]
        pre = pre.reshape(pre.shape[0], batch, groups, cell.gates * size)
    else:
        batch = ragged.batch(pre)
        pre = pre.reshape(-1, groups, cell.gates * size)
    c0 = None
    if hx is None:
        h0 = input.new_zeros(batch, groups, size)
        if cell.has_c:
            c0 = h0
    else:
        h0 = _as_state(hx.h, groups, size)
        if hx.c is not None:
            c0 = _as_state(hx.c, groups, size)
    reset_h = reset_c = None
    if ragged.resets is not None and reset_to is not None:
        start = reset_to.map(lambda x: x.reshape(groups, size))
        if cell.saves:
            reset_h, reset_c = start.map(lambda x: x.expand(batch, groups, size))
        else:
            pre = _add_reset_state(start.h, pre, weight_hh, ragged, heads)
    arguments = Arguments(weight_hh, h0, c0, unit_param, *ragged, reset_h, reset_c, mode, heads)
    results = recur(pre, arguments, save)
    h_n, c_n = _as_h0(results.h_n, directions).contiguous(), results.c_n
    if c_n is not None:
        c_n = _as_h0(c_n, directions).contiguous()
    return results.out.flatten(-2), State(h_n, c_n), h0, results


def _add_reset_state(
    state: Tensor,  # [G, H]
    pre: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    weight_hh: Tensor,  # [G, H, H]
    ragged: Ragged,  # with resets
    reverse_from: int,
) -> Tensor:
    """Add W_hh state to pre where a sequence starts, for nn.RNN's cells.

    The GPU kernels have no reset_h: they start a sequence from 0.
    """
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


def traceable_recurrence(pre: Tensor, arguments: Arguments, _: bool = False) -> Outputs:
    """Compute `fastrnn.functional.recurrence`, of any cell, with valid arguments."""
    recording = is_recording(pre, *arguments.tensors())
    results = _by_request(pre, arguments, save=recording)
    if recording and torch.compiler.is_compiling():
        # Users may write to out, and the backward reads the operator's output.
        results = Outputs(results.out.clone(), *results[1:])
    return results


def _by_request(pre: Tensor, arguments: Arguments, save: bool) -> Outputs:
    """Run the recurrence with the requested backend."""
    number = dispatch.number_by_name(pre)
    if pre.is_complex():
        # The operator's backward supports real numbers only. Autograd can differentiate the
        # reference's forward directly.
        name = dispatch.requested()
        if name not in ("auto", "torch"):
            call = Call.of(pre, arguments.h0, arguments.ragged(), arguments.mode)
            dispatch.for_recurrence(call, name)
        return reference.forward(pre, arguments)
    if number is not None:
        return recurrence_by(pre, arguments, save, number)
    return recurrence(pre, arguments, save)


def _in_place(pre: Tensor, arguments: Arguments, save: bool) -> Outputs:
    """Run the recurrence in place: a result reuses the memory of pre, which has no other user.

    That is the saved gates, or without them the out of a cell of one gate.
    """
    cell = CELLS[arguments.mode]
    if not cell.saves:
        return Outputs(pre, recurrence_out(pre, *arguments, out=pre))
    h0 = arguments.h0
    shape = *pre.shape[:-1], h0.shape[-1]
    out = pre if cell.gates == 1 and not save else pre.new_empty(shape)
    inner = pre.new_empty(shape) if save and cell.has_inner else None
    c_n = h0.new_empty(h0.shape) if cell.has_c else None
    gates = pre if save else None
    h_n = recurrence_out(pre, *arguments, out=out, c_n=c_n, gates=gates, inner=inner)
    return Outputs(out, h_n, c_n, gates, inner)


@without_autocast
def _eager_forward(
    input: Tensor,
    hx: State | None,
    weights: Sequence[Tensor],
    ragged: Ragged,
    mode: int,
    directions: int,
    save: bool,  # for a backward
) -> tuple[Tensor, State, Tensor, Outputs]:
    # Not for packed data: rows that belong to no step must be 0. On the CPU, plain tensors imply
    # that the kernels registered as the operators serve the call.
    in_place = ragged.offsets is None and (input.is_cpu or dispatch.number_by_name(input) is None)
    return _forward(
        linear_below_autograd if input.is_cpu else F.linear,
        _in_place if in_place else _by_request,
        input,
        hx,
        weights,
        ragged,
        None,
        mode,
        directions,
        save,
    )


class _Layer(torch.autograd.Function):
    """A layer as one autograd node. It saves no more than separate nodes would."""

    @staticmethod
    def forward(
        ctx: Any, ragged: Ragged, mode: int, directions: int, *tensors: Any
    ) -> tuple[Tensor | None, ...]:
        input, h0, c0, *weights = tensors
        hx = None if h0 is None else State(h0, c0)
        with below_views():
            output, last, zeros, results = _eager_forward(
                input, hx, weights, ragged, mode, directions, True
            )
            saved_output = copy_on_write(output)
        ctx.mode, ctx.directions, ctx.starts_from_zero = mode, directions, hx is None
        kept = _without_biases(weights, directions, mode)
        # The backward uses the same backend, even if another one is requested by then.
        ctx.backend = dispatch.number_by_name(input)
        gates, inner = results.gates, results.inner
        if hx is None:
            h0, c0 = zeros, zeros if CELLS[mode].has_c else None
        ctx.save_for_backward(saved_output, gates, inner, h0, c0, *ragged, input, *kept)
        ctx.set_materialize_grads(False)
        copy = None if saved_output is output else saved_output
        if gates is None:
            return output, last.h, copy
        # A second derivative has gradients of the saved results.
        return output, last.h, copy, gates, inner, *(() if last.c is None else (last.c,))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grads)


_apply = apply_outside_transforms(_Layer)

#: The index of the first weight among the arguments of _Layer.
_FIRST_WEIGHT = 6


def _without_biases(weights: Sequence[Tensor], directions: int, mode: int) -> Sequence[Tensor]:
    """Return the weights that gradients depend on."""
    if directions == 1 and not CELLS[mode].is_leaky:
        return weights[:2]
    count = len(weights) // directions
    kept = (0, 1, count - 1) if CELLS[mode].is_leaky else (0, 1)
    return [weights[d * count + k] for d in range(directions) for k in kept]


@below_autograd_once
@without_autocast
def _gradients(
    ctx: Any,
    saved: tuple[Any, ...],
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_saved_output: Tensor | None,
    grad_gates: Tensor | None = None,
    grad_inner: Tensor | None = None,
    grad_c_n: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    output, gates, inner, h0, c0, lengths, offsets, resets, input, *weights = saved
    if grad_output is None or grad_saved_output is not None:
        grad_output = add_gradients(grad_output, grad_saved_output, like=output)
    directions, cell = ctx.directions, CELLS[ctx.mode]
    weight_ih, weight_hh, _, leak = merge_directions(weights, directions, cell)
    groups, _, size = weight_hh.shape
    heads = groups // directions
    if not ctx.starts_from_zero:
        h0 = _as_state(h0, groups, size)
        if c0 is not None:
            c0 = _as_state(c0, groups, size)
    if grad_h_n is not None:
        grad_h_n = _as_state(grad_h_n, groups, size)
    else:
        grad_h_n = h0 if ctx.starts_from_zero else torch.zeros_like(h0)
    if grad_c_n is not None:
        grad_c_n = _as_state(grad_c_n, groups, size)
    out = output.reshape(*output.shape[:-1], groups, size)
    # The inner values that a GRU saves include its unit_param.
    ragged, resets_to = (lengths, offsets, resets), (None, None)
    arguments = Arguments(weight_hh, h0, c0, leak, *ragged, *resets_to, ctx.mode, heads)
    results = _recurrence_backward(ctx.backend)(
        Outputs(grad_output.reshape(out.shape), grad_h_n, grad_c_n, grad_gates, grad_inner),
        Step(State(out), gates, inner),
        arguments,
    )
    input_needs_grad, h0_needs_grad, c0_needs_grad = ctx.needs_input_grad[3:_FIRST_WEIGHT]
    grad_input = grad_h0 = grad_c0 = None
    rows = results.pre.reshape(-1, weight_ih.shape[0])
    if input_needs_grad:
        grad_input = multiply(rows, weight_ih).reshape(input.shape)
    if h0_needs_grad:
        grad_h0 = _as_h0(results.h0, directions)
    if c0_needs_grad and results.c0 is not None:
        grad_c0 = _as_h0(results.c0, directions)
    grad_weights = _weight_gradients(ctx, results, rows, out, arguments, input, weights)
    return None, None, None, grad_input, grad_h0, grad_c0, *grad_weights


def _weight_gradients(
    ctx: Any,
    results: Gradients,
    rows: Tensor,  # the gradient of pre, [.., D·K·H]
    out: Tensor,
    arguments: Arguments,
    input: Tensor,
    weights: Sequence[Tensor],
) -> list[Tensor | None]:
    """Compute the gradients of the weights that need one, in the order of _Layer's arguments."""
    directions, cell = ctx.directions, CELLS[ctx.mode]
    groups, _, size = arguments.weight_hh.shape
    heads = arguments.reverse_from
    needs_grad = ctx.needs_input_grad[_FIRST_WEIGHT:]
    count = len(needs_grad) // directions
    by_kind: list[Sequence[Tensor | None]] = [[None] * directions] * count
    if any(needs_grad[::count]):
        by_kind[0] = split_rows(
            outer((rows, input.reshape(-1, input.shape[-1]))),
            weights[0].shape,
            cell,
            heads,
            directions,
        )
    if any(needs_grad[1::count]):
        by_kind[1] = split_directions(
            weight_hh_grad(results, out, arguments, ctx.starts_from_zero),
            weights[1].shape,
            directions,
        )
    biases, of_units = count - count % 2 > 2, None
    if results.unit_param is not None and any(any(needs_grad[k::count]) for k in range(2, count)):
        of_units = results.unit_param.reshape(-1, groups * size).sum(0)
    if cell.is_leaky and of_units is not None:
        by_kind[-1] = split_directions(of_units, (groups * size // directions,), directions)
        of_units = None
    if biases and (any(needs_grad[2::count]) or any(needs_grad[3::count])):
        by_kind[2:4] = split_biases(rows.sum(0), of_units, cell, heads, directions)
    return [kind[d] for d in range(directions) for kind in by_kind]


def _recurrence_backward(number: int | None) -> Callable[[Outputs, Step, Arguments], Gradients]:
    if number is None:
        return recurrence.backward
    return lambda *arguments: recurrence_by.backward(*arguments, number)


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
