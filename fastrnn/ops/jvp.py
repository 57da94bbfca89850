"""Forward-mode derivatives of the operator and of its backward: tangents at the kernels' speed.

The tangent of h obeys a linear recurrence, in the order of the forward::

    dh_t = act'(h_t) (dpre_t + dW h_{t-1} + W dh_{t-1})

which is what `recurrence_backward` computes, with W in W^T's place and time turned round. So is
the tangent of dz, in the order of the backward::

    ddz_t = act'(h_t) (dg_t + dW^T dz_{t+1} + W^T ddz_{t+1}) + v_t      g: grad_out
    v_t = act''(h_t) dh_t (g_t + W^T dz_{t+1})

where v is moved into the sum: e = ddz - v obeys the recurrence of dz, with grad_out
dg_t + dW^T dz_{t+1} + W^T v_{t+1}.

Everything here is differentiable again, in either mode, and can be batched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ragged import Ragged
from .reference import RELU, TANH, Layout, accumulation_dtype
from .time_shift import each_direction, neighbours, outermost, uncut

#: The derivative of act' by h, of 1 - h² or of a step; None: 0 everywhere.
SECOND_DERIVATIVES: dict[int, Callable[[Tensor], Tensor] | None] = {
    TANH: lambda h: -2 * h,
    RELU: None,
}


def forward(
    backward_operator: Callable[..., tuple[Tensor, Tensor]],
    dpre: Tensor | None,  # as out
    dweight: Tensor | None,  # [G, H, H]
    dh0: Tensor | None,  # [B, G, H]
    out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    weight_hh: Tensor,  # [G, H, H]
    h0: Tensor,  # [B, G, H]
    ragged: Ragged,
    activation: int,
    reverse_from: int,
) -> tuple[Tensor, Tensor]:
    """The tangents of out and h_n, from those of pre, weight_hh and h0, of which None is 0."""
    layout, lengths = Layout(out, h0, ragged), ragged.lengths
    padded, resets = layout.pad(out), layout.begins
    source = torch.zeros_like(padded) if dpre is None else layout.pad(dpre)
    if dweight is not None:
        previous = each_direction(
            lambda reverse, x, edge: neighbours(x, edge, lengths, resets, later=reverse),
            reverse_from,
            padded,
            uncut(h0, resets, reverse_from),
        )
        source = source + _product(dweight, previous)
    if dh0 is None:
        dh0 = torch.zeros_like(h0)
    # The groups that ran up run down, as the backward of groups that run in reverse does.
    groups, turn = weight_hh.shape[0], min(reverse_from, weight_hh.shape[0])
    source, padded, first, dh0_turned, weight = (
        x if turn in (0, groups) else torch.roll(x, -turn, axis)
        for x, axis in (
            (source, 2),
            (padded, 2),
            (uncut(_product(weight_hh, dh0), resets, reverse_from), 1),
            (dh0, 1),
            (weight_hh.mT, 0),
        )
    )
    ragged = Ragged(lengths, None, resets)
    dout, _ = backward_operator(
        source, first, padded, weight, dh0_turned, ragged, activation, groups - turn
    )
    if turn not in (0, groups):
        dout = torch.roll(dout, turn, 2)
    dh_n = each_direction(
        lambda reverse, x, none: outermost(x, none, lengths, last=not reverse),
        reverse_from,
        dout,
        dh0,
    )
    return layout.pack(dout, like=out), dh_n


def backward(
    backward_operator: Callable[..., tuple[Tensor, Tensor]],
    dgrad_out: Tensor | None,  # as out
    dgrad_h_n: Tensor | None,  # [B, G, H]
    dout: Tensor | None,  # as out
    dweight: Tensor | None,  # [G, H, H]
    dz: Tensor,  # as out: what the backward returned as grad_pre
    grad_out: Tensor,  # as out
    grad_h_n: Tensor,  # [B, G, H]
    out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    weight_hh: Tensor,  # [G, H, H]
    h0: Tensor,  # [B, G, H]
    ragged: Ragged,
    activation: int,
    reverse_from: int,
) -> tuple[Tensor, Tensor]:
    """The tangents of grad_pre and grad_h0, from those of the backward's arguments; None is 0."""
    layout, lengths = Layout(out, h0, ragged), ragged.lengths
    padded, dz, resets = layout.pad(out), layout.pad(dz), layout.begins

    def arriving(x: Tensor, edge: Tensor) -> Tensor:
        """What a step's x sends on, at the step that receives it in the backward's order."""
        return each_direction(
            lambda reverse, x, edge: neighbours(x, edge, lengths, resets, later=not reverse),
            reverse_from,
            x,
            edge,
        )

    zero = torch.zeros_like(grad_h_n)
    if dgrad_h_n is None:
        dgrad_h_n = zero
    sent = torch.zeros_like(padded) if dweight is None else _product(dweight.mT, dz)
    second = SECOND_DERIVATIVES[activation]
    v = None
    if second is not None and dout is not None:
        arrived = arriving(_product(weight_hh.mT, dz), grad_h_n)
        v = second(padded) * layout.pad(dout) * (layout.pad(grad_out) + arrived)
        sent = sent + _product(weight_hh.mT, v)
    source = arriving(sent, zero)
    if dgrad_out is not None:
        source = source + layout.pad(dgrad_out)
    ragged = Ragged(lengths, None, resets)
    e, dgrad_h0 = backward_operator(
        source, dgrad_h_n, padded, weight_hh, h0, ragged, activation, reverse_from
    )
    sent_last = each_direction(
        lambda reverse, x, none: outermost(x, none, lengths, last=reverse),
        reverse_from,
        sent,
        zero,
    )
    dgrad_h0 = dgrad_h0 + uncut(sent_last, resets, reverse_from)
    return layout.pack(e if v is None else e + v, like=out), dgrad_h0


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """W x for every row and group, in x's dtype: [G, H, K], [..., G, K] -> [..., G, H]."""
    acc = accumulation_dtype(x.dtype)
    # Not einsum or flatten: they cannot be batched where a tangent of a mapped function is taken.
    rows = x.to(acc).reshape(-1, *x.shape[-2:]).transpose(0, 1)
    return (rows @ weight.to(acc).mT).transpose(0, 1).reshape(x.shape).to(x.dtype)
