"""single_cta for Hopper in Gluon, with W_hh in registers: half precision, H up to 256.

Each step is one wgmma product, [units, units] x [units, rows]. W_hh is its left operand, which
wgmma takes from registers. So only the right operand, the state, is read from shared memory. A
tensor has one of two layouts. `held` is [units, rows], the layout of wgmma's result. `moved` is
[rows, units], in which a thread has elements that are adjacent in memory. A pass through shared
memory converts between them.

Shared memory holds the tensors of one step. Two barriers per step separate its readers and writers:
  - `_publish`: all data is written. Each thread also fences its writes, because wgmma reads shared
    memory through the async proxy, which a barrier alone does not order.
  - The barrier after `_wait`: all data has been read, including by every warp's wgmma, and may be
    overwritten.
Separate buffers for even and odd steps would avoid the second barrier, unless Triton inserts it
anyway (3.9 does). But with H = 256, W_hh leaves no registers for a second set of addresses.

wgmma reads W_hh's registers until `_wait`. So all products are in the loop, where the next one
needs W_hh again: ptxas before CUDA 13.3 may reuse the registers of a left operand as soon as no
later instruction needs it.

W_hh, the state and the gradient are 0 beyond H. A row past the batch is a separate column of the
product, and is not written. PADDED is 64 with 4 warps, or 128 or 256 with 8 warps. ROWS is 8 or 16,
but with an odd H above 128, 16 rows do not fit in registers in the backward.
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
    PRECISION: gl.constexpr,  # half precision has only one
):
    """Compute h_t = act(pre_t + W_hh h_{t-1}) for one group and ROWS rows of the batch."""
    held: gl.constexpr = _held(ROWS, gl.num_warps())
    group, rows, inside, place, width, unit, column = _tile(batch, groups, H, PADDED, ROWS)
    moved: gl.constexpr = place.type.layout
    backwards = group >= reverse_from
    end = ends(lengths, rows, batch, steps)
    column_end = ends(lengths, column, batch, steps)
    weight = _left(weight_hh + group.to(gl.int64) * H * H, False, H, PADDED, held)
    states = _buffer(h0, PADDED, ROWS)
    inputs = _buffer(h0, PADDED, ROWS)

    # A step is shorter than the latency of a load from memory, so pre is loaded ahead.
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
        # While wgmma runs, store the previous step and load pre three steps ahead.
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
    PRECISION: gl.constexpr,  # half precision has only one
):
    """Compute dz_t = (dout_t + W_hh^T dz_{t+1}) act'(h_t) for one group and ROWS rows."""
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
    # An iteration's product crosses the boundary before the next iteration.
    cut = cut_before(1, steps, batch, backwards, offsets, resets, column_end, column)
    cut_1 = cut_before(2, steps, batch, backwards, offsets, resets, column_end, column)
    for i in range(steps):
        dz = gradient_of(grad_t.to(gl.float32) + dh, out_t.to(gl.float32), RELU)
        dz = confine(dz, unit < H, H, PADDED)
        deltas.permute((1, 0)).store(dz.to(out_t.dtype))
        grads.store(grad_1)
        outs.store(out_1)
        _publish()
        product = _product(weight, deltas, held)  # while it runs, store and load as in forward
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
    """Return the program's group, rows and elements as in single_cta, and `held` units and rows."""
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
    """Return a layout with 16 bytes of a row per thread, or fewer if rows are less aligned."""
    vector = min(8, h & -h)
    across = min(32, padded // vector)
    return gl.BlockedLayout([1, vector], [32 // across, across], [num_warps, 1], [1, 0])


@gluon.jit
def _left(weight, TURNED: gl.constexpr, H: gl.constexpr, PADDED: gl.constexpr, held: gl.constexpr):
    """Load the weight, or its transpose, as the left operand; the buffers then reuse its memory."""
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
    """Start the asynchronous product weight [units, units] x [units, rows]."""
    right = buffer.permute((1, 0))
    zero = gl.full(right.shape, 0.0, gl.float32, held)
    return hopper.warpgroup_mma(weight, right, zero, use_acc=False, is_async=True)


@gluon.jit
def _wait(product):
    return hopper.warpgroup_mma_wait(0, deps=(product,))


def configuration(sizes: Sizes) -> dict[str, Any]:
    """Return the compile-time constants and compiler options for a call of these sizes.

    A tile has 8 rows, the minimum for wgmma. It has 16 if there would otherwise be more tiles than
    multiprocessors, and the registers suffice.
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
