"""A stack of layers with operations that torch.compile, torch.func and torch.export can see.

In eager mode, on plain tensors, `layer` computes the same as one autograd node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import reference
from ._eager import is_recording
from ._torch_private import is_transforming
from .arguments import Arguments, Outputs, State, concatenate
from .backends import dispatch
from .backends.base import Call
from .cells import CELLS
from .linear import linear
from .parameters import merge_directions
from .ragged import Ragged
from .recurrence import recurrence, recurrence_by
from .time_shift import is_active, zero_padding
from .unaliased_grad import unaliased_grad
from .weight_grad import sequence_starts


def layers_of(
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    num_layers: int,
    directions: int,
) -> list[tuple[Sequence[Tensor], State | None]]:
    """Return each layer's weights and its initial state [D, B, H]."""
    if num_layers == 1:
        return [(weights, hx)]
    count = len(weights) // num_layers
    return [
        (
            weights[k * count : (k + 1) * count],
            None if hx is None else hx.of_layer(k, directions),
        )
        for k in range(num_layers)
    ]


def traceable_stack(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: State | None,  # [D·L, H]
    mode: int,
    num_layers: int,
    directions: int,
    dropout: float = 0.0,  # between layers
) -> tuple[Tensor, State]:
    """Run a stack layer by layer: return output and the final state."""
    input = without_padding(input, hx, weights, ragged)
    last_states = []
    for index, (own, first) in enumerate(layers_of(hx, weights, num_layers, directions)):
        if index > 0 and dropout > 0:
            input = torch.dropout(input, dropout, True)
        start = None if reset_to is None else reset_to.of_layer(index, directions)
        input, last = traceable_layer(input, first, own, ragged, start, mode, directions)
        last_states.append(last)
    return input, concatenate(last_states)


def without_padding(
    input: Tensor, hx: State | None, weights: Sequence[Tensor], ragged: Ragged
) -> Tensor:
    """Return the input with 0 in place of padding where gradients may be computed.

    A gradient of 0 times a padding of NaN would be NaN.
    """
    if ragged.lengths is None or ragged.is_packed():
        return input
    if (
        torch.jit.is_tracing()
        or is_recording(*weights, input, *(hx or ()))
        or (not torch.compiler.is_compiling() and is_transforming())
    ):
        return zero_padding(input, is_active(input.shape[0], ragged.lengths))
    return input


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
    return layer_by(linear, traceable_recurrence, *tensors, mode, directions, False)[:2]


def layer_by(
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
        h0 = as_state(hx.h, groups, size)
        if hx.c is not None:
            c0 = as_state(hx.c, groups, size)
    reset_h = reset_c = None
    if ragged.resets is not None and reset_to is not None:
        start = reset_to.map(lambda x: x.reshape(groups, size))
        if cell.saves:
            reset_h, reset_c = start.map(lambda x: x.expand(batch, groups, size))
        else:
            pre = _add_reset_state(start.h, pre, weight_hh, ragged, heads)
    arguments = Arguments(weight_hh, h0, c0, unit_param, *ragged, reset_h, reset_c, mode, heads)
    results = recur(pre, arguments, save)
    h_n, c_n = as_h0(results.h_n, directions).contiguous(), results.c_n
    if c_n is not None:
        c_n = as_h0(c_n, directions).contiguous()
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
    results = by_request(pre, arguments, save=recording)
    if recording and torch.compiler.is_compiling():
        # Users may write to out, and the backward reads the operator's output.
        results = Outputs(results.out.clone(), *results[1:])
    return results


def by_request(pre: Tensor, arguments: Arguments, save: bool) -> Outputs:
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


def as_state(x: Tensor, groups: int, size: int) -> Tensor:
    """[D, B, H] -> [B, G, H/n], as the operators take states."""
    directions, batch, _ = x.shape
    if directions > 1:
        x = x.transpose(0, 1)
    return x.reshape(batch, groups, size)


def as_h0(x: Tensor, directions: int) -> Tensor:
    """[B, G, H/n] -> [D, B, H]."""
    batch, groups, size = x.shape
    if directions == 1:
        return x.reshape(1, batch, groups * size)
    return x.reshape(batch, directions, groups * size // directions).transpose(0, 1)
