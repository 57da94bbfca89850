"""single_cta: one program holds all of a group's W_hh and a tile of the batch for all steps.

Each step is one matrix product: the state is the left operand, and W_hh, in shared memory, the
right one. Programs do not communicate: a step costs shared memory accesses and a few barriers. H is
padded to a power of two; W_hh is 0 in the padding, so that it does not affect the result.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .table import OPTIONS, PRECISION, Launch, Sizes, power_of_two
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


@triton.jit(do_not_specialize=SIZES)
def forward(
    pre,  # [T, B, G, H] or [N, G, H]
    weight_hh,  # [G, H, H]
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
    ROWS: tl.constexpr,
    RELU: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute h_t = act(pre_t + W_hh h_{t-1}) for one group and ROWS rows of the batch."""
    group, rows, inside, first, place, width = _tile(batch, groups, H, PADDED, ROWS)
    pre, h0, out, h_n = pre + first, h0 + first, out + first, h_n + first
    backwards = group >= reverse_from
    end = ends(lengths, rows, batch, steps)
    k = tl.arange(0, PADDED)[:, None]
    unit = tl.arange(0, PADDED)[None, :]
    weight_hh += group.to(tl.int64) * H * H
    weight = tl.load(weight_hh + unit * H + k, mask=(k < H) & (unit < H), other=0.0)
    h = tl.load(h0 + place, mask=inside, other=0.0)

    # A step is shorter than the latency of a load from memory, so pre is loaded two steps ahead.
    t, row = locate(0, steps, batch, backwards, offsets)
    pre_t = tl.load(pre + row * width + place, mask=active_at(t, end, inside), other=0.0)
    t_1, row_1 = locate(1, steps, batch, backwards, offsets)
    pre_1 = tl.load(pre + row_1 * width + place, mask=active_at(t_1, end, inside), other=0.0)
    cut = cut_before(0, steps, batch, backwards, offsets, resets, end, rows)
    cut_1 = cut_before(1, steps, batch, backwards, offsets, resets, end, rows)
    for i in range(steps):
        t_2, row_2 = locate(i + 2, steps, batch, backwards, offsets)
        pre_2 = tl.load(pre + row_2 * width + place, mask=active_at(t_2, end, inside), other=0.0)
        cut_2 = cut_before(i + 2, steps, batch, backwards, offsets, resets, end, rows)
        before = cross(h, cut)
        z = tl.dot(before, weight, acc=pre_t.to(tl.float32), input_precision=PRECISION)
        new = confine(activate(z, RELU, FAST), inside, H, PADDED).to(h.dtype)
        active = active_at(t, end, inside)
        store_step(out + row * width, place, new, inside, active, end, offsets)
        h = new if end is None else tl.where(active, new, h)
        t, row, pre_t = t_1, row_1, pre_1
        t_1, row_1, pre_1 = t_2, row_2, pre_2
        if resets is not None:
            cut, cut_1 = cut_1, cut_2
    tl.store(h_n + place, h, mask=inside)


@triton.jit(do_not_specialize=SIZES)
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
    ROWS: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute dz_t = (dout_t + W_hh^T dz_{t+1}) act'(h_t) for one group and ROWS rows."""
    group, rows, inside, first, place, width = _tile(batch, groups, H, PADDED, ROWS)
    grad_out, out, grad_pre = grad_out + first, out + first, grad_pre + first
    grad_h_n, grad_h0 = grad_h_n + first, grad_h0 + first
    backwards = group < reverse_from  # against the order of forward
    end = ends(lengths, rows, batch, steps)
    k = tl.arange(0, PADDED)[:, None]
    unit = tl.arange(0, PADDED)[None, :]
    weight_hh += group.to(tl.int64) * H * H
    weight = tl.load(weight_hh + k * H + unit, mask=(k < H) & (unit < H), other=0.0)
    dh = tl.load(grad_h_n + place, mask=inside, other=0.0).to(tl.float32)

    t, row = locate(0, steps, batch, backwards, offsets)
    active = active_at(t, end, inside)
    grad_t = tl.load(grad_out + row * width + place, mask=active, other=0.0)
    out_t = tl.load(out + row * width + place, mask=active, other=0.0)
    t_1, row_1 = locate(1, steps, batch, backwards, offsets)
    active = active_at(t_1, end, inside)
    grad_1 = tl.load(grad_out + row_1 * width + place, mask=active, other=0.0)
    out_1 = tl.load(out + row_1 * width + place, mask=active, other=0.0)
    # An iteration's product crosses the boundary before the next iteration.
    cut = cut_before(1, steps, batch, backwards, offsets, resets, end, rows)
    cut_1 = cut_before(2, steps, batch, backwards, offsets, resets, end, rows)
    for i in range(steps):
        t_2, row_2 = locate(i + 2, steps, batch, backwards, offsets)
        active = active_at(t_2, end, inside)
        grad_2 = tl.load(grad_out + row_2 * width + place, mask=active, other=0.0)
        out_2 = tl.load(out + row_2 * width + place, mask=active, other=0.0)
        cut_2 = cut_before(i + 3, steps, batch, backwards, offsets, resets, end, rows)
        dz = gradient_of(grad_t.to(tl.float32) + dh, out_t.to(tl.float32), RELU)
        dz = confine(dz, inside, H, PADDED).to(out_t.dtype)
        active = active_at(t, end, inside)
        store_step(grad_pre + row * width, place, dz, inside, active, end, offsets)
        product = cross(tl.dot(dz, weight, input_precision=PRECISION), cut)
        dh = product if end is None else tl.where(active, product, dh)
        t, row, grad_t, out_t = t_1, row_1, grad_1, out_1
        t_1, row_1, grad_1, out_1 = t_2, row_2, grad_2, out_2
        if resets is not None:
            cut, cut_1 = cut_1, cut_2
    tl.store(grad_h0 + place, dh, mask=inside)


@triton.jit
def _tile(batch, groups, H: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """Return this program's group and rows, its valid elements and their offsets in [B, G, H].

    The offset is the sum of `first`, with 64 bits, and of `place` within the tile, with 32 bits. If
    rows are not aligned, every element needs its own address, and 64 bits for each would fill the
    registers.
    """
    group = tl.program_id(0) % groups
    row = tl.program_id(0) // groups * ROWS
    rows = (row + tl.arange(0, ROWS))[:, None]
    units = tl.arange(0, PADDED)[None, :]
    inside = (rows < batch) & (units < H)
    width = groups.to(tl.int64) * H
    first = row * width + group.to(tl.int64) * H
    place = tl.arange(0, ROWS)[:, None] * (groups * H) + units
    return group, rows, inside, first, place, width


def configuration(sizes: Sizes) -> dict[str, Any]:
    """Return the compile-time constants and compiler options for a call of these sizes.

    A tile has 16 rows, the minimum for tensor cores. It has 32 if there would otherwise be more
    tiles than multiprocessors, and the registers suffice. Without `maxnreg`, the compiler may limit
    registers that no other program needs, and spill.
    """
    padded = power_of_two(sizes.hidden)
    warps = max(1, padded // 16)
    crowded = triton.cdiv(sizes.batch, 16) * sizes.groups > sizes.processors
    fits = padded <= 128 and sizes.hidden % 2 == 0 and sizes.mode != "float32"
    return {
        **OPTIONS,
        "H": sizes.hidden,
        "PADDED": padded,
        "ROWS": 32 if crowded and fits else 16,
        "PRECISION": PRECISION[sizes.mode],
        "num_warps": warps,
        "num_stages": 1,
        "maxnreg": min(255, 2048 // warps),
    }


def launch_forward(call: Launch, *tensors: Tensor | None) -> None:
    """Fill out and h_n; `tensors` are the kernel's, in its order."""
    options = configuration(call.sizes)
    flags = {"RELU": call.relu, "FAST": call.fast}
    forward[programs(call.sizes, options)](*tensors, *call.arguments, **flags, **options)


def launch_backward(call: Launch, *tensors: Tensor | None) -> None:
    """Fill grad_pre and grad_h0; `tensors` are the kernel's, in its order."""
    options = configuration(call.sizes)
    flags = {"RELU": call.relu}
    backward[programs(call.sizes, options)](*tensors, *call.arguments, **flags, **options)


def programs(sizes: Sizes, options: dict[str, Any]) -> tuple[int]:
    """Return the launch grid: one program per group and tile of the batch."""
    return (triton.cdiv(sizes.batch, options["ROWS"]) * sizes.groups,)
