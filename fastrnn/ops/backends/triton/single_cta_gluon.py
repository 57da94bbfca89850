"""single_cta for Hopper, in Gluon, with W_hh in registers: half precision, H up to 256.

A step is one product of wgmma, [units, units] x [units, rows]. W_hh is its left operand, which
wgmma takes from registers, so that only the state, the right one, is read from shared memory. A
tensor is `held` as [units, rows], the way wgmma leaves its result, or `moved` as [rows, units], of
which a thread has what lies side by side in memory; shared memory turns the one into the other.

Shared memory holds one step's tensors. Two barriers a step keep its readers and writers apart:
  - `_publish`: all is written. Each thread also fences what it wrote, for wgmma reads shared memory
    by a way of its own, which a barrier alone does not order.
  - The one after `_wait`: all is read, by every warp's wgmma too. Only then is it written over.
Buffers of their own for even and odd steps would save the second, where Triton does not put it
there anyway (3.9 does), but at H = 256 W_hh leaves no registers for a second set of addresses.

wgmma reads W_hh's registers until `_wait`. So all products are in the loop, which needs W_hh again:
ptxas before CUDA 13.3 may give a left operand's registers to others once no later one needs it.

W_hh is 0 beyond H, and so are the state and the gradient. A row past the batch is a column of its
own in the product, and not written. PADDED is 64, with 4 warps, or 128 or 256, with 8; ROWS is 8
or 16, but 16 rows of an odd H above 128 do not fit the registers in the backward.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper

from .single_cta import programs
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

barrier = getattr(gl, "barrier", None) or gl.thread_barrier  # the latter in Triton 3.6


@gluon.jit(do_not_specialize=SIZES)
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
    H: gl.constexpr,
    PADDED: gl.constexpr,
    ROWS: gl.constexpr,
    RELU: gl.constexpr,
    FAST: gl.constexpr,
    PRECISION: gl.constexpr,  # half precision has but one
):
    """h_t = act(pre_t + W_hh h_{t-1}) of one group, for ROWS rows of the batch."""
    held: gl.constexpr = _held(ROWS, gl.num_warps())
    group, rows, inside, place, width, unit, column = _tile(batch, groups, H, PADDED, ROWS)
    moved: gl.constexpr = place.type.layout
    backwards = group >= reverse_from
    end = ends(lengths, rows, batch, steps)
    column_end = ends(lengths, column, batch, steps)
    weight = _left(weight_hh + group.to(gl.int64) * H * H, False, H, PADDED, held)
    states = _buffer(h0, PADDED, ROWS)
    inputs = _buffer(h0, PADDED, ROWS)

    # A step is shorter than the way from memory, so pre is asked for two steps ahead.
    states.store(gl.load(h0 + place, mask=inside, other=0.0))
    t, row = locate(0, steps, batch, backwards, offsets)
    inputs.store(gl.load(pre + (row * width + place), mask=active_at(t, end, inside), other=0.0))
    t_1, row_1 = locate(1, steps, batch, backwards, offsets)
    pre_1 = gl.load(pre + (row_1 * width + place), mask=active_at(t_1, end, inside), other=0.0)
    t_2, row_2 = locate(2, steps, batch, backwards, offsets)
    pre_2 = gl.load(pre + (row_2 * width + place), mask=active_at(t_2, end, inside), other=0.0)
    cut = cut_before(0, steps, batch, backwards, offsets, resets, column_end, column)
    cut_1 = cut_before(1, steps, batch, backwards, offsets, resets, column_end, column)
    for i in range(steps):
        _publish()
        product = _product(weight, states, held)
        # Meanwhile the step before is written, and the third from here is asked for.
        before = inside & (i > 0)
        active = active_at(t, end, before)
        store_step(out, row * width + place, states.load(moved), before, active, end, offsets)
        t_3, row_3 = locate(i + 3, steps, batch, backwards, offsets)
        pre_3 = gl.load(pre + (row_3 * width + place), mask=active_at(t_3, end, inside), other=0.0)
        cut_2 = cut_before(i + 2, steps, batch, backwards, offsets, resets, column_end, column)
        t, row = locate(i, steps, batch, backwards, offsets)
        h = _turned(states, held)
        pre_t = _turned(inputs, held)
        z = cross(_wait(product), cut) + pre_t.to(gl.float32)
        new = confine(activate(z, RELU, FAST), unit < H, H, PADDED).to(h.dtype)
        h = new if end is None else gl.where(active_at(t, column_end, column < batch), new, h)
        barrier()
        states.permute((1, 0)).store(h)
        inputs.store(pre_1)
        pre_1, pre_2 = pre_2, pre_3
        if resets is not None:
            cut, cut_1 = cut_1, cut_2
    barrier()
    h = states.load(moved)
    store_step(out, row * width + place, h, inside, active_at(t, end, inside), end, offsets)
    gl.store(h_n + place, h, mask=inside)


@gluon.jit(do_not_specialize=SIZES)
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
    H: gl.constexpr,
    PADDED: gl.constexpr,
    ROWS: gl.constexpr,
    RELU: gl.constexpr,
    PRECISION: gl.constexpr,  # half precision has but one
):
    """dz_t = (dout_t + W_hh^T dz_{t+1}) act'(h_t) of one group, for ROWS rows of the batch."""
    held: gl.constexpr = _held(ROWS, gl.num_warps())
    group, rows, inside, place, width, unit, column = _tile(batch, groups, H, PADDED, ROWS)
    moved: gl.constexpr = place.type.layout
    backwards = group < reverse_from  # against the order of forward
    end = ends(lengths, rows, batch, steps)
    column_end = ends(lengths, column, batch, steps)
    weight = _left(weight_hh + group.to(gl.int64) * H * H, True, H, PADDED, held)
    deltas = _buffer(out, PADDED, ROWS)
    grads = _buffer(out, PADDED, ROWS)
    outs = _buffer(out, PADDED, ROWS)

    deltas.store(gl.load(grad_h_n + place, mask=inside, other=0.0))
    t, row = locate(0, steps, batch, backwards, offsets)
    active = active_at(t, end, inside)
    grads.store(gl.load(grad_out + (row * width + place), mask=active, other=0.0))
    outs.store(gl.load(out + (row * width + place), mask=active, other=0.0))
    t, row = locate(1, steps, batch, backwards, offsets)
    active = active_at(t, end, inside)
    grad_1 = gl.load(grad_out + (row * width + place), mask=active, other=0.0)
    out_1 = gl.load(out + (row * width + place), mask=active, other=0.0)
    t, row = locate(2, steps, batch, backwards, offsets)
    active = active_at(t, end, inside)
    grad_2 = gl.load(grad_out + (row * width + place), mask=active, other=0.0)
    out_2 = gl.load(out + (row * width + place), mask=active, other=0.0)
    barrier()
    dh = _turned(deltas, held).to(gl.float32)
    grad_t = _turned(grads, held)
    out_t = _turned(outs, held)
    barrier()
    # What a turn leaves meets the border before the next.
    cut = cut_before(1, steps, batch, backwards, offsets, resets, column_end, column)
    cut_1 = cut_before(2, steps, batch, backwards, offsets, resets, column_end, column)
    for i in range(steps):
        dz = gradient_of(grad_t.to(gl.float32) + dh, out_t.to(gl.float32), RELU)
        dz = confine(dz, unit < H, H, PADDED)
        deltas.permute((1, 0)).store(dz.to(out_t.dtype))
        grads.store(grad_1)
        outs.store(out_1)
        _publish()
        product = _product(weight, deltas, held)  # and meanwhile, as in forward:
        t, row = locate(i, steps, batch, backwards, offsets)
        active = active_at(t, end, inside)
        dz = deltas.load(moved)
        store_step(grad_pre, row * width + place, dz, inside, active, end, offsets)
        remains = active_at(t, column_end, column < batch)
        grad_1, out_1 = grad_2, out_2
        t, row = locate(i + 3, steps, batch, backwards, offsets)
        active = active_at(t, end, inside)
        grad_2 = gl.load(grad_out + (row * width + place), mask=active, other=0.0)
        out_2 = gl.load(out + (row * width + place), mask=active, other=0.0)
        cut_2 = cut_before(i + 3, steps, batch, backwards, offsets, resets, column_end, column)
        grad_t = _turned(grads, held)
        out_t = _turned(outs, held)
        product = cross(_wait(product), cut)
        dh = product if end is None else gl.where(remains, product, dh)
        if resets is not None:
            cut, cut_1 = cut_1, cut_2
        barrier()
    deltas.permute((1, 0)).store(dh.to(out_t.dtype))
    barrier()
    gl.store(grad_h0 + place, deltas.load(moved), mask=inside)


@gluon.jit
def _tile(batch, groups, H: gl.constexpr, PADDED: gl.constexpr, ROWS: gl.constexpr):
    """This program's group, rows and elements, as in single_cta; then units and rows, held."""
    held: gl.constexpr = _held(ROWS, gl.num_warps())
    moved: gl.constexpr = _moved(H, PADDED, gl.num_warps())
    group = gl.program_id(0) % groups
    first = gl.program_id(0) // groups * ROWS
    rows = (first + gl.arange(0, ROWS, gl.SliceLayout(1, moved)))[:, None]
    units = gl.arange(0, PADDED, gl.SliceLayout(0, moved))[None, :]
    inside = (rows < batch) & (units < H)
    width = groups.to(gl.int64) * H
    place = rows * width + (group.to(gl.int64) * H + units)
    column = (first + gl.arange(0, ROWS, gl.SliceLayout(0, held)))[None, :]
    unit = gl.arange(0, PADDED, gl.SliceLayout(1, held))[:, None]
    return group, rows, inside, place, width, unit, column


@gluon.constexpr_function
def _held(rows, num_warps):
    return gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, rows, 16])


@gluon.constexpr_function
def _moved(h, padded, num_warps):
    """16 bytes of a row a thread, or as many as the beginnings of the rows are multiples of."""
    vector = min(8, h & -h)
    across = min(32, padded // vector)
    return gl.BlockedLayout([1, vector], [32 // across, across], [num_warps, 1], [1, 0])


@gluon.jit
def _left(weight, TURNED: gl.constexpr, H: gl.constexpr, PADDED: gl.constexpr, held: gl.constexpr):
    """The weight, or its transpose, as the left operand; it leaves shared memory to the buffers."""
    moved: gl.constexpr = _moved(H, PADDED, gl.num_warps())
    left: gl.constexpr = gl.DotOperandLayout(0, held, 2)
    row = gl.arange(0, PADDED, gl.SliceLayout(1, moved))[:, None]
    column = gl.arange(0, PADDED, gl.SliceLayout(0, moved))[None, :]
    weight = gl.load(weight + row * H + column, mask=(row < H) & (column < H), other=0.0)
    shape: gl.constexpr = weight.shape
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for(shape, weight.dtype)
    shared = gl.allocate_shared_memory(weight.dtype, shape, layout, weight)
    barrier()
    weight = shared.permute((1, 0)).load(left) if TURNED else shared.load(left)
    barrier()
    return weight


@gluon.jit
def _buffer(like, PADDED: gl.constexpr, ROWS: gl.constexpr):
    dtype: gl.constexpr = like.dtype.element_ty
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, PADDED], dtype)
    return gl.allocate_shared_memory(dtype, [ROWS, PADDED], layout)


@gluon.jit
def _turned(buffer, held: gl.constexpr):
    return buffer.permute((1, 0)).load(held)


@gluon.jit
def _publish():
    hopper.fence_async_shared()
    barrier()


@gluon.jit
def _product(weight, buffer, held: gl.constexpr):
    """Begin weight [units, units] x [units, rows]."""
    right = buffer.permute((1, 0))
    zero = gl.full(right.shape, 0.0, gl.float32, held)
    return hopper.warpgroup_mma(weight, right, zero, use_acc=False, is_async=True)


@gluon.jit
def _wait(product):
    return hopper.warpgroup_mma_wait(0, deps=(product,))


def configuration(sizes: Sizes) -> dict[str, Any]:
    """The compile-time constants for a call of these sizes, and the compiler's options.

    8 rows are the least that wgmma takes; 16 where there would be more tiles than multiprocessors,
    and the registers suffice.
    """
    padded = power_of_two(sizes.hidden, least=64)
    crowded = -(-sizes.batch // 8) * sizes.groups > sizes.processors
    fits = padded <= 128 or sizes.hidden % 2 == 0
    return {
        **OPTIONS,
        "H": sizes.hidden,
        "PADDED": padded,
        "ROWS": 16 if crowded and fits else 8,
        "PRECISION": PRECISION[sizes.mode],
        "num_warps": 4 if padded == 64 else 8,
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
