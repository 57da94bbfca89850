"""Forward-mode derivatives of the operator and of its backward, computed by the kernels.

They are for nn.RNN's cells. For all others, torch differentiates the operations of the reference.
The tangent of h obeys a linear recurrence in the order of the forward::

    dh_t = act'(h_t) (dpre_t + dW h_{t-1} + W dh_{t-1})

`recurrence_backward` computes such a recurrence, given W in place of W^T and reversed time. The
tangent of dz obeys one too, in the order of the backward::

    ddz_t = act'(h_t) (dg_t + dW^T dz_{t+1} + W^T ddz_{t+1}) + v_t      g: grad_out
    v_t = act''(h_t) dh_t (g_t + W^T dz_{t+1})

To move v into the sum, substitute e = ddz - v: it obeys the recurrence of dz with grad_out
dg_t + dW^T dz_{t+1} + W^T v_{t+1}.

All functions are themselves differentiable in both modes and support vmap.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .cells import RNN_RELU, RNN_TANH
from .ragged import Ragged
from .reference import Layout, accumulation_dtype
from .time_shift import each_direction, end_step, shift, zero_at_reset

#: The derivative with respect to h of act', which is 1 - h² or a step function. None: 0 everywhere.
SECOND_DERIVATIVES: dict[int, Callable[[Tensor], Tensor] | None] = {
    RNN_TANH: lambda h: -2 * h,
    RNN_RELU: None,
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
    """Compute the tangents of out and h_n from those of pre, weight_hh and h0. None means 0."""
    layout, lengths = Layout(out, h0, ragged), ragged.lengths
    padded, resets = layout.pad(out), layout.resets
    source = torch.zeros_like(padded) if dpre is None else layout.pad(dpre)
    if dweight is not None:
        previous = each_direction(
            lambda reverse, x, boundary: shift(x, boundary, lengths, resets, later=reverse),
            reverse_from,
            padded,
            zero_at_reset(h0, resets, reverse_from),
        )
        source = source + _product(dweight, previous)
    if dh0 is None:
        dh0 = torch.zeros_like(h0)
    # The backward operator runs reverse groups in ascending time. So the forward groups become the
    # reverse groups, and are rolled behind the others.
    groups, n_forward = weight_hh.shape[0], min(reverse_from, weight_hh.shape[0])
    source, padded, first, dh0_rolled, weight = (
        x if n_forward in (0, groups) else torch.roll(x, -n_forward, axis)
        for x, axis in (
            (source, 2),
            (padded, 2),
            (zero_at_reset(_product(weight_hh, dh0), resets, reverse_from), 1),
            (dh0, 1),
            (weight_hh.mT, 0),
        )
    )
    ragged = Ragged(lengths, None, resets)
    dout, _ = backward_operator(
        source, first, padded, weight, dh0_rolled, ragged, activation, groups - n_forward
    )
    if n_forward not in (0, groups):
        dout = torch.roll(dout, n_forward, 2)
    dh_n = each_direction(
        lambda reverse, x, default: end_step(x, default, lengths, last=not reverse),
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
    dz: Tensor,  # as out: grad_pre, as the backward returned it
    grad_out: Tensor,  # as out
    grad_h_n: Tensor,  # [B, G, H]
    out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    weight_hh: Tensor,  # [G, H, H]
    h0: Tensor,  # [B, G, H]
    ragged: Ragged,
    activation: int,
    reverse_from: int,
) -> tuple[Tensor, Tensor]:
    """Compute the tangents of grad_pre and grad_h0 from those of the inputs. None means 0."""
    layout, lengths = Layout(out, h0, ragged), ragged.lengths
    padded, dz, resets = layout.pad(out), layout.pad(dz), layout.resets

    def to_next(x: Tensor, boundary: Tensor) -> Tensor:
        """Shift x to the next step in the backward's order: t - 1, or t + 1 in reverse groups."""
        return each_direction(
            lambda reverse, x, boundary: shift(x, boundary, lengths, resets, later=not reverse),
            reverse_from,
            x,
            boundary,
        )

    zero = torch.zeros_like(grad_h_n)
    if dgrad_h_n is None:
        dgrad_h_n = zero
    outgoing = torch.zeros_like(padded) if dweight is None else _product(dweight.mT, dz)
    second = SECOND_DERIVATIVES[activation]
    v = None
    if second is not None and dout is not None:
        incoming = to_next(_product(weight_hh.mT, dz), grad_h_n)
        v = second(padded) * layout.pad(dout) * (layout.pad(grad_out) + incoming)
        outgoing = outgoing + _product(weight_hh.mT, v)
    source = to_next(outgoing, zero)
    if dgrad_out is not None:
        source = source + layout.pad(dgrad_out)
    ragged = Ragged(lengths, None, resets)
    e, dgrad_h0 = backward_operator(
        source, dgrad_h_n, padded, weight_hh, h0, ragged, activation, reverse_from
    )
    outgoing_to_h0 = each_direction(
        lambda reverse, x, default: end_step(x, default, lengths, last=reverse),
        reverse_from,
        outgoing,
        zero,
    )
    dgrad_h0 = dgrad_h0 + zero_at_reset(outgoing_to_h0, resets, reverse_from)
    return layout.pack(e if v is None else e + v, like=out), dgrad_h0


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """Compute W x per row and group, in x's dtype: [G, H, K], [..., G, K] -> [..., G, H]."""
    acc = accumulation_dtype(x.dtype)
    # Not einsum or flatten: they do not support vmap under the tangent of a mapped function.
    rows = x.to(acc).reshape(-1, *x.shape[-2:]).transpose(0, 1)
    return (rows @ weight.to(acc).mT).transpose(0, 1).reshape(x.shape).to(x.dtype)
