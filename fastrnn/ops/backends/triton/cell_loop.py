"""The loops over time of the cells that save gates: see `rows_cells` and `single_cta_cells`.

Each strategy compiles these functions, with its own options. They are the loops of nn.RNN's cells,
with K gates, an optional second state and an optional start after a reset. The inputs of a step are
loaded one step ahead: with several gates, a step is longer and has more of them. The functions are
long because a loop's state cannot be passed to a function without all of its values.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton.language as tl

from .cell_tile import (
    begin,
    each,
    load_gates,
    load_state,
    load_weight,
    only_cut,
    product,
    store_gates,
    sum_of_products,
    tile,
    widen,
)
from .cells import backward_step, forward_step
from .tile import active_at, as_mask, confine, cross, cut_before, ends, locate, store_step


def forward(
    pre,  # [T, B, G, K·H] or [N, G, K·H]
    weight_hh,  # [G, K·H, H]; with ROWS = 1 each gate's [H, H] transposed
    h0,  # [B, G, H]
    c0,  # [B, G, H] or None
    unit_param,  # [G, H] or None
    lengths,  # [B] or None
    offsets,  # [T] or None
    resets,  # [T, B] or [N] bytes, or None
    reset_h,  # [B, G, H] or None
    reset_c,  # [B, G, H] or None
    out,  # [T, B, G, H] or [N, G, H]; may be pre itself if K = 1
    h_n,  # [B, G, H]
    c_n,  # [B, G, H] or None
    gates,  # as pre, or None; may be pre itself
    inner,  # as out, or None
    steps,
    batch,
    groups,
    reverse_from,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    CELL: tl.constexpr,
    RELU: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Run a cell for one group and ROWS rows of the batch."""
    group, rows, units, inside, first, place, of_gates, width = tile(
        batch, groups, H, PADDED, K, ROWS
    )
    dtype: tl.constexpr = out.dtype.element_ty
    backwards = group >= reverse_from
    end = ends(lengths, rows, batch, steps)
    weight_hh += group * K * H * H
    weights = [load_weight(weight_hh + k * H * H, ROWS > 1, H, PADDED, ROWS) for k in each(K)]
    h, c = load_state(h0, first, place, inside), load_state(c0, first, place, inside)
    start_h = load_state(reset_h, first, place, inside)
    start_c = load_state(reset_c, first, place, inside)
    param = load_state(unit_param, group * H, units, units < H)
    pre, out = pre + first * K, out + first

    t, row = locate(0, steps, batch, backwards, offsets)
    pre_t = load_gates(pre + row * width * K, of_gates, active_at(t, end, inside), H, K)
    cut = cut_before(0, steps, batch, backwards, offsets, resets, end, rows)
    for i in range(steps):
        t_1, row_1 = locate(i + 1, steps, batch, backwards, offsets)
        pre_1 = load_gates(pre + row_1 * width * K, of_gates, active_at(t_1, end, inside), H, K)
        cut_1 = cut_before(i + 1, steps, batch, backwards, offsets, resets, end, rows)
        h, c = begin(h, cut, start_h), begin(c, cut, start_c)
        z = [product(h, weight, dtype, ROWS, PRECISION) for weight in weights]
        gates_t, inner_t, new_h, new_c = forward_step(
            widen(pre_t), z, h, c, param, dtype, CELL, RELU, FAST
        )
        new_h = confine(new_h, inside, H, PADDED).to(dtype)
        active = active_at(t, end, inside)
        store_step(out + row * width, place, new_h, inside, active, end, offsets)
        if gates is not None:
            at = gates + (first + row * width) * K
            store_gates(at, of_gates, gates_t, inside, active, end, offsets, H, K)
        if inner is not None:
            at = inner + (first + row * width)
            store_step(at, place, inner_t, inside, active, end, offsets)
        new_h = new_h.to(tl.float32)
        h = new_h if end is None else tl.where(active, new_h, h)
        c = new_c if end is None else tl.where(active, new_c, c)
        t, row, pre_t = t_1, row_1, pre_1
        if resets is not None:
            cut = cut_1
    tl.store(h_n + first + place, h, mask=inside)
    if c_n is not None:
        tl.store(c_n + first + place, c, mask=inside)


def backward(
    grad_out,  # [T, B, G, H] or [N, G, H]
    grad_h_n,  # [B, G, H]
    grad_c_n,  # [B, G, H] or None
    gates,  # [T, B, G, K·H] or [N, G, K·H]
    inner,  # as grad_out; None if it is c, or if there is none
    states,  # as grad_out: c of all steps, or h for a cell without c
    state_0,  # [B, G, H]: c0, or h0 likewise
    start,  # [B, G, H]: reset_c, or reset_h likewise, or None
    weight_hh,  # [G, K·H, H]
    unit_param,  # [G, H] or None
    lengths,  # [B] or None
    offsets,  # [T] or None
    resets,  # [T, B] or [N] bytes, or None
    grad_pre,  # as gates
    grad_param,  # as grad_out, or None
    grad_h0,  # [B, G, H]
    grad_c0,  # [B, G, H] or None
    grad_reset_h,  # [B, G, H] or None
    grad_reset_c,  # [B, G, H] or None
    steps,
    batch,
    groups,
    reverse_from,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    CELL: tl.constexpr,
    RELU: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Run the backward of a cell for one group and ROWS rows of the batch."""
    group, rows, units, inside, first, place, of_gates, width = tile(
        batch, groups, H, PADDED, K, ROWS
    )
    dtype: tl.constexpr = grad_pre.dtype.element_ty
    backwards = group < reverse_from  # against the order of forward
    end = ends(lengths, rows, batch, steps)
    weight_hh += group * K * H * H
    weights = [load_weight(weight_hh + k * H * H, False, H, PADDED, ROWS) for k in each(K)]
    dh = load_state(grad_h_n, first, place, inside)
    dc = load_state(grad_c_n, first, place, inside)
    initial = tl.load(state_0 + first + place, mask=inside, other=0.0)
    reset = load_state(start, first, place, inside)
    param = load_state(unit_param, group * H, units, units < H)
    sum_h, sum_c = tl.zeros_like(dh), tl.zeros_like(dh)
    gates, grad_pre = gates + first * K, grad_pre + first * K
    grad_out, states = grad_out + first, states + first

    t, row = locate(0, steps, batch, backwards, offsets)
    active = active_at(t, end, inside)
    gates_t = load_gates(gates + row * width * K, of_gates, active, H, K)
    grad_t = tl.load(grad_out + row * width + place, mask=active, other=0.0)
    state_t = tl.load(states + row * width + place, mask=active, other=0.0)
    inner_t = state_t
    if inner is not None:
        inner_t = tl.load(inner + (first + row * width) + place, mask=active, other=0.0)
    # The state before a step is that of the next iteration, or the initial one.
    t_1, row_1 = locate(1, steps, batch, backwards, offsets)
    exists = active_at(t_1, end, inside) & as_mask(steps > 1)
    state_1 = tl.load(states + row_1 * width + place, mask=exists, other=initial)
    # An iteration's product crosses the boundary before the next iteration.
    cut = cut_before(1, steps, batch, backwards, offsets, resets, end, rows)
    for i in range(steps):
        t_1, row_1 = locate(i + 1, steps, batch, backwards, offsets)
        active = active_at(t_1, end, inside)
        gates_1 = load_gates(gates + row_1 * width * K, of_gates, active, H, K)
        grad_1 = tl.load(grad_out + row_1 * width + place, mask=active, other=0.0)
        inner_1 = state_1
        if inner is not None:
            inner_1 = tl.load(inner + (first + row_1 * width) + place, mask=active, other=0.0)
        t_2, row_2 = locate(i + 2, steps, batch, backwards, offsets)
        exists = active_at(t_2, end, inside) & as_mask(i + 2 < steps)
        state_2 = tl.load(states + row_2 * width + place, mask=exists, other=initial)
        cut_1 = cut_before(i + 2, steps, batch, backwards, offsets, resets, end, rows)
        before = begin(state_1.to(tl.float32), cut, reset)
        saved, saved_inner = widen(gates_t), inner_t.to(tl.float32)
        dpre, dz, dh_1, dc_1, of_param = backward_step(
            grad_t.to(tl.float32) + dh, dc, saved, saved_inner, before, param, CELL, RELU, FAST
        )
        active = active_at(t, end, inside)
        at = grad_pre + row * width * K
        store_gates(at, of_gates, dpre, inside, active, end, offsets, H, K)
        if grad_param is not None:
            at = grad_param + (first + row * width)
            store_step(at, place, of_param, inside, active, end, offsets)
        dh_1 += sum_of_products(dz, weights, inside, dtype, H, PADDED, K, ROWS, PRECISION)
        sum_h, sum_c = sum_h + only_cut(dh_1, cut), sum_c + only_cut(dc_1, cut)
        dh_1, dc_1 = cross(dh_1, cut), cross(dc_1, cut)
        dh = dh_1 if end is None else tl.where(active, dh_1, dh)
        dc = dc_1 if end is None else tl.where(active, dc_1, dc)
        t, row, grad_t, gates_t, inner_t, state_1 = t_1, row_1, grad_1, gates_1, inner_1, state_2
        if resets is not None:
            cut = cut_1
    tl.store(grad_h0 + first + place, dh, mask=inside)
    if grad_c0 is not None:
        tl.store(grad_c0 + first + place, dc, mask=inside)
    if grad_reset_h is not None:
        tl.store(grad_reset_h + first + place, sum_h, mask=inside)
    if grad_reset_c is not None:
        tl.store(grad_reset_c + first + place, sum_c, mask=inside)
