"""rows: one program per row of the batch, with W_hh in registers and float32 FMAs.

It suits few rows, which would leave most of a tensor core tile as padding, and float32 without
tensor core rounding. Each thread holds part of one unit's weights and sums its own products; the
threads that share a unit add their sums through shared memory.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .table import OPTIONS, Launch, Sizes, power_of_two
from .tile import (
    SIZES,
    activate,
    active_at,
    confine,
    cross,
    cut_before,
    ends,
    gradient_of,
    locate,
    store_step,
)

#: Pointers that must not be specialized on alignment. If it knew that rows are 16-byte aligned, the
#: compiler would assign four adjacent units to a thread, and the same units to every four warps.
#: That doubles the instructions per step.
FORWARD_TENSORS = ["pre", "weight_t", "h0", "out", "h_n"]
BACKWARD_TENSORS = ["grad_out", "grad_h_n", "out", "weight_hh", "grad_pre", "grad_h0"]


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=FORWARD_TENSORS)
def forward(
    pre,  # [T, B, G, H] or [N, G, H]
    weight_t,  # [G, H, H]: W_hh of each group, transposed
    h0,  # [B, G, H]
    lengths,  # [B] or None
    offsets,  # [T] or None
    resets,  # [T, B] or [N] bytes, or None
    out,  # as pre; may be pre itself
    h_n,  # [B, G, H]
    steps,
    batch,
    groups,
    reverse_from,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    RELU: tl.constexpr,
    FAST: tl.constexpr,
):
    """Compute h_t = act(pre_t + W_hh h_{t-1}) for one group and one row of the batch."""
    group, row_in_batch, inside, place, width = _row(groups, H, PADDED)
    backwards = group >= reverse_from
    end = ends(lengths, row_in_batch, batch, steps)
    weight = _weight(weight_t, group, H, PADDED)
    h = tl.load(h0 + place, mask=inside, other=0.0).to(tl.float32)

    # A step is shorter than the latency of a load from memory, so pre is loaded two steps ahead.
    t, row = locate(0, steps, batch, backwards, offsets)
    pre_t = tl.load(pre + (row * width + place), mask=active_at(t, end, inside), other=0.0)
    t_1, row_1 = locate(1, steps, batch, backwards, offsets)
    pre_1 = tl.load(pre + (row_1 * width + place), mask=active_at(t_1, end, inside), other=0.0)
    cut = cut_before(0, steps, batch, backwards, offsets, resets, end, row_in_batch)
    cut_1 = cut_before(1, steps, batch, backwards, offsets, resets, end, row_in_batch)
    for i in range(steps):
        t_2, row_2 = locate(i + 2, steps, batch, backwards, offsets)
        pre_2 = tl.load(pre + (row_2 * width + place), mask=active_at(t_2, end, inside), other=0.0)
        cut_2 = cut_before(i + 2, steps, batch, backwards, offsets, resets, end, row_in_batch)
        z = cross(tl.sum(weight * h[:, None], axis=0), cut) + pre_t.to(tl.float32)
        new = confine(activate(z, RELU, FAST), inside, H, PADDED).to(pre_t.dtype)
        active = active_at(t, end, inside)
        store_step(out, row * width + place, new, inside, active, end, offsets)
        new = new.to(tl.float32)
        h = new if end is None else tl.where(active, new, h)
        t, row, pre_t = t_1, row_1, pre_1
        t_1, row_1, pre_1 = t_2, row_2, pre_2
        if resets is not None:
            cut, cut_1 = cut_1, cut_2
    tl.store(h_n + place, h, mask=inside)


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=BACKWARD_TENSORS)
def backward(
    grad_out,  # as out
    grad_h_n,  # [B, G, H]
    out,  # [T, B, G, H] or [N, G, H]
    weight_hh,  # [G, H, H]
    lengths,  # [B] or None
    offsets,  # [T] or None
    resets,  # [T, B] or [N] bytes, or None
    grad_pre,  # as out
    grad_h0,  # [B, G, H]
    steps,
    batch,
    groups,
    reverse_from,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    RELU: tl.constexpr,
):
    """Compute dz_t = (dout_t + W_hh^T dz_{t+1}) act'(h_t) for one group and one row."""
    group, row_in_batch, inside, place, width = _row(groups, H, PADDED)
    backwards = group < reverse_from  # against the order of forward
    end = ends(lengths, row_in_batch, batch, steps)
    weight = _weight(weight_hh, group, H, PADDED)
    dh = tl.load(grad_h_n + place, mask=inside, other=0.0).to(tl.float32)

    t, row = locate(0, steps, batch, backwards, offsets)
    active = active_at(t, end, inside)
    grad_t = tl.load(grad_out + (row * width + place), mask=active, other=0.0)
    out_t = tl.load(out + (row * width + place), mask=active, other=0.0)
    t_1, row_1 = locate(1, steps, batch, backwards, offsets)
    active = active_at(t_1, end, inside)
    grad_1 = tl.load(grad_out + (row_1 * width + place), mask=active, other=0.0)
    out_1 = tl.load(out + (row_1 * width + place), mask=active, other=0.0)
    # An iteration's product crosses the boundary before the next iteration.
    cut = cut_before(1, steps, batch, backwards, offsets, resets, end, row_in_batch)
    cut_1 = cut_before(2, steps, batch, backwards, offsets, resets, end, row_in_batch)
    for i in range(steps):
        t_2, row_2 = locate(i + 2, steps, batch, backwards, offsets)
        active = active_at(t_2, end, inside)
        grad_2 = tl.load(grad_out + (row_2 * width + place), mask=active, other=0.0)
        out_2 = tl.load(out + (row_2 * width + place), mask=active, other=0.0)
        cut_2 = cut_before(i + 3, steps, batch, backwards, offsets, resets, end, row_in_batch)
        dz = gradient_of(grad_t.to(tl.float32) + dh, out_t.to(tl.float32), RELU)
        dz = confine(dz, inside, H, PADDED).to(out_t.dtype)
        active = active_at(t, end, inside)
        store_step(grad_pre, row * width + place, dz, inside, active, end, offsets)
        product = cross(tl.sum(weight * dz.to(tl.float32)[:, None], axis=0), cut)
        dh = product if end is None else tl.where(active, product, dh)
        t, row, grad_t, out_t = t_1, row_1, grad_1, out_1
        t_1, row_1, grad_1, out_1 = t_2, row_2, grad_2, out_2
        if resets is not None:
            cut, cut_1 = cut_1, cut_2
    tl.store(grad_h0 + place, dh, mask=inside)


@triton.jit
def _row(groups, H: tl.constexpr, PADDED: tl.constexpr):
    """Return this program's group and row, its valid units and their offsets in [B, G, H]."""
    group = tl.program_id(0) % groups
    row = tl.program_id(0) // groups
    units = tl.arange(0, PADDED)
    width = groups.to(tl.int64) * H
    place = row * width + (group.to(tl.int64) * H + units)
    return group, row, units < H, place, width


@triton.jit
def _weight(weight, group, H: tl.constexpr, PADDED: tl.constexpr):
    """Load the group's weight as float32: [k, unit], where k is summed over."""
    k = tl.arange(0, PADDED)[:, None]
    unit = tl.arange(0, PADDED)[None, :]
    place = group.to(tl.int64) * H * H + (k * H + unit)
    return tl.load(weight + place, mask=(k < H) & (unit < H), other=0.0).to(tl.float32)


def configuration(sizes: Sizes) -> dict[str, Any]:
    """Return the compile-time constants and compiler options for a call of these sizes.

    One warp per 8 units: with H = 128, a thread holds 32 elements of W_hh.
    """
    padded = power_of_two(sizes.hidden)
    warps = padded // 8
    return {
        **OPTIONS,
        "H": sizes.hidden,
        "PADDED": padded,
        "num_warps": warps,
        "num_stages": 1,
        "maxnreg": min(255, 2048 // warps),
    }


def launch_forward(call: Launch, pre: Tensor, weight_hh: Tensor, *tensors: Tensor | None) -> None:
    """Fill out and h_n; the tensors are the kernel's, in its order, except for the transpose."""
    # Adjacent threads hold adjacent units; the transpose makes them adjacent in memory too.
    weight_t = weight_hh.mT.contiguous()
    programs = (call.sizes.batch * call.sizes.groups,)
    flags = {"RELU": call.relu, "FAST": call.fast}
    options = configuration(call.sizes)
    forward[programs](pre, weight_t, *tensors, *call.arguments, **flags, **options)


def launch_backward(call: Launch, *tensors: Tensor | None) -> None:
    """Fill grad_pre and grad_h0; `tensors` are the kernel's, in its order."""
    programs = (call.sizes.batch * call.sizes.groups,)
    flags = {"RELU": call.relu}
    backward[programs](*tensors, *call.arguments, **flags, **configuration(call.sizes))
