"""Functions that the kernels of cells which save gates share: tiles, weights, products and gates.

A tile has ROWS rows of the batch and all units of a group. With ROWS = 1 it is one-dimensional, and
its products are float32 multiply-adds. Otherwise they run on the tensor cores.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from .cells import stored
from .tile import confine, store_step


@triton.jit
def tile(batch, groups, H: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr):
    """Return this program's group, rows, units and elements, and their places in memory.

    An element's place in [B, G, H] is the sum of `first`, with 64 bits, and of `place`. That of its
    first gate in [B, G, K·H] is the sum of first · K and of `of_gates`.
    """
    group = (tl.program_id(0) % groups).to(tl.int64)
    row = tl.program_id(0) // groups * ROWS
    width = groups.to(tl.int64) * H
    first = row * width + group * H
    if ROWS == 1:
        rows, units = row, tl.arange(0, PADDED)
        inside, place, of_gates = units < H, units, units
    else:
        in_tile, units = tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)[None, :]
        rows = row + in_tile
        inside = (rows < batch) & (units < H)
        place, of_gates = in_tile * (groups * H) + units, in_tile * (groups * K * H) + units
    return group, rows, units, inside, first, place, of_gates, width


@triton.jit
def each(K: tl.constexpr):
    """Return the numbers of the gates, to loop over."""
    if K == 1:
        gates = (0,)
    elif K == 3:
        gates = (0, 1, 2)
    else:
        gates = (0, 1, 2, 3)
    return gates


@triton.jit
def load_weight(
    weight, TURNED: tl.constexpr, H: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr
):
    """Load a gate's weight, or its transpose: [k, unit], where k is summed over."""
    k = tl.arange(0, PADDED)[:, None]
    unit = tl.arange(0, PADDED)[None, :]
    place = unit * H + k if TURNED else k * H + unit
    block = tl.load(weight + place, mask=(k < H) & (unit < H), other=0.0)
    return block.to(tl.float32) if ROWS == 1 else block


@triton.jit
def product(state, weight, dtype: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr):
    """Compute a tile's product with a block of the weight, from a state in the storage dtype."""
    if ROWS == 1:
        z = tl.sum(weight * state[:, None], axis=0)
    else:
        z = tl.dot(state.to(dtype), weight, input_precision=PRECISION)
    return z


@triton.jit
def sum_of_products(
    dz,
    weights,
    inside,
    dtype: tl.constexpr,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute W_hh^T dz, with dz in the storage dtype."""
    if ROWS == 1:
        # The gates' products are added before the threads add theirs.
        terms = tl.zeros_like(weights[0])
        for k in tl.static_range(K):
            dz_k = stored(confine(dz[k], inside, H, PADDED), dtype)
            terms += weights[k] * dz_k[:, None]
        total = tl.sum(terms, axis=0)
    else:
        total = tl.zeros_like(dz[0])
        for k in tl.static_range(K):
            dz_k = confine(dz[k], inside, H, PADDED).to(dtype)
            total = tl.dot(dz_k, weights[k], acc=total, input_precision=PRECISION)
    return total


@triton.jit
def load_gates(data, place, mask, H: tl.constexpr, K: tl.constexpr):
    """Load the gates of a step; `place` is that of the first gate in [..., K·H]."""
    return [tl.load(data + k * H + place, mask=mask, other=0.0) for k in each(K)]


@triton.jit
def store_gates(
    data, place, values, inside, active, end, offsets, H: tl.constexpr, K: tl.constexpr
):
    """Store the gates of a step, as `store_step` does."""
    for k in tl.static_range(K):
        store_step(data + k * H, place, values[k], inside, active, end, offsets)


@triton.jit
def widen(values):
    """Convert a tuple to float32."""
    return [x.to(tl.float32) for x in values]


@triton.jit
def load_state(state, first, place, inside):
    """Load a state as float32; 0 if there is none."""
    if state is None:
        value = tl.where(inside, 0.0, 0.0)
    else:
        value = tl.load(state + first + place, mask=inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def begin(state, cut, start):
    """Return the state before a step; `cut` is from `cut_before`."""
    return state if cut is None else tl.where(cut == 0, state, start)


@triton.jit
def only_cut(value, cut):
    """Return what `cross` removes: the value in rows that a reset cuts, and 0 in the others."""
    return tl.zeros_like(value) if cut is None else tl.where(cut == 0, 0.0, value)
