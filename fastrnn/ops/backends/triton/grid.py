"""grid: the columns of a group's W_hh split over many programs that exchange the state every step.

The programs of a team share a group and a tile of the batch; each owns COLS units. In each step, a
program reads the whole state of the tile from L2, multiplies it by its own columns, applies the
activation, writes its own part of the state and synchronizes with the team. The state is double
buffered, so that no program overwrites a state that another may still be reading.

With a counter, `arrived`, one launch runs all steps, and the programs synchronize on the counter. A
program would wait forever for one that is not running, so the launch is cooperative: the driver
rejects it if the programs do not all fit. Without a counter, each launch runs one step, and the end
of the launch synchronizes.

RESIDENT: the columns stay in the program's shared memory, and the depth of the product is split
over its warps. Otherwise the columns are read from L2 at every step, DEPTH at a time.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .occupancy import room
from .table import OPTIONS, PRECISION, Launch, Sizes, power_of_two
from .tile import (
    SIZES,
    activate,
    active_at,
    cross,
    cut_before,
    ends,
    gradient_of,
    locate,
    store_step,
)

RUNTIME = [*SIZES, "begin", "end", "first_team"]


@triton.jit(do_not_specialize=RUNTIME)
def forward(
    pre,  # [T, B, G, H] or [N, G, H]
    weight_hh,  # [G, H, H]
    lengths,  # [B] or None
    offsets,  # [T] or None
    resets,  # [T, B] or [N] bytes, or None
    out,  # as pre; may be pre itself
    h_n,  # [B, G, H]
    states,  # [2, B, G, H]: the state before step i in states[i % 2]; initially h0 in states[0]
    arrived,  # [teams] or None: the number of steps the team's programs have finished, summed
    steps,
    batch,
    groups,
    reverse_from,
    begin,
    end,
    first_team,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLIT: tl.constexpr,
    RESIDENT: tl.constexpr,
    RELU: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Run iterations begin to end of h_t = act(pre_t + W_hh h_{t-1})."""
    SLICES: tl.constexpr = (H + COLS - 1) // COLS
    team = first_team + tl.program_id(0) // SLICES
    units = tl.program_id(0) % SLICES * COLS + tl.arange(0, COLS)
    group, rows, width, base = _team(team, batch, groups, H, ROWS)
    in_batch = rows < batch
    inside = in_batch & (units < H)[None, :]
    place = base + units[None, :]
    backwards = group >= reverse_from
    last = ends(lengths, rows, batch, steps)
    weight_hh += (group.to(tl.int64) * H + units) * H  # W_hh transposed: [k, unit]
    if RESIDENT:
        weight = _columns(weight_hh, units < H, 1, H, PADDED, SPLIT)
    size = batch * width
    h = tl.load(states + (begin % 2) * size + place, mask=inside, other=0.0)

    t, row = locate(begin, steps, batch, backwards, offsets)
    pre_t = tl.load(pre + (row * width + place), mask=active_at(t, last, inside), other=0.0)
    cut = cut_before(begin, steps, batch, backwards, offsets, resets, last, rows)
    for i in range(begin, end):
        t_1, row_1 = locate(i + 1, steps, batch, backwards, offsets)
        pre_1 = tl.load(pre + (row_1 * width + place), mask=active_at(t_1, last, inside), other=0.0)
        cut_1 = cut_before(i + 1, steps, batch, backwards, offsets, resets, last, rows)
        if arrived is not None:
            _wait(arrived + team, tl.cast(i, tl.int64) * SLICES)
        source = states + (i % 2) * size + base
        if RESIDENT:
            z = _product(source, in_batch, weight, H, PADDED, SPLIT, PRECISION)
        else:
            z = _streamed(
                source, in_batch, weight_hh, units < H, 1, H, ROWS, COLS, DEPTH, PRECISION
            )
        new = activate(cross(z, cut) + pre_t.to(tl.float32), RELU, FAST).to(h.dtype)
        active = active_at(t, last, inside)
        store_step(out, row * width + place, new, inside, active, last, offsets)
        h = new if last is None else tl.where(active, new, h)
        tl.store(states + ((i + 1) % 2) * size + place, h, mask=inside)
        if arrived is not None:
            _arrive(arrived + team)
        t, row, pre_t = t_1, row_1, pre_1
        if resets is not None:
            cut = cut_1
    tl.store(h_n + place, h, mask=inside)


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    grad_out,  # as out
    out,  # [T, B, G, H] or [N, G, H]
    weight_hh,  # [G, H, H]
    lengths,  # [B] or None
    offsets,  # [T] or None
    resets,  # [T, B] or [N] bytes, or None
    grad_pre,  # as out
    dh,  # [B, G, H] float32: initially grad_h_n, finally grad_h0
    exchange,  # [2, B, G, H]: dz of iteration i in exchange[(i + 1) % 2]
    arrived,  # [teams] or None: the number of iterations the team's programs have finished, summed
    steps,
    batch,
    groups,
    reverse_from,
    begin,
    end,
    first_team,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLIT: tl.constexpr,
    RESIDENT: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Run iterations begin to end of dz_t = (dout_t + W_hh^T dz_{t+1}) act'(h_t).

    Iteration i starts with the product of the dz that the team wrote in the iteration before. So
    there is one more iteration than there are steps: the last one only finishes dh.
    """
    SLICES: tl.constexpr = (H + COLS - 1) // COLS
    team = first_team + tl.program_id(0) // SLICES
    units = tl.program_id(0) % SLICES * COLS + tl.arange(0, COLS)
    group, rows, width, base = _team(team, batch, groups, H, ROWS)
    in_batch = rows < batch
    inside = in_batch & (units < H)[None, :]
    place = base + units[None, :]
    backwards = group < reverse_from  # against the order of forward
    last = ends(lengths, rows, batch, steps)
    weight_hh += group.to(tl.int64) * H * H + units  # [k, unit]
    if RESIDENT:
        weight = _columns(weight_hh, units < H, H, H, PADDED, SPLIT)
    size = batch * width
    gradient = tl.load(dh + place, mask=inside, other=0.0)

    t_before, _ = locate(tl.maximum(begin - 1, 0), steps, batch, backwards, offsets)
    t, row = locate(begin, steps, batch, backwards, offsets)
    active = active_at(t, last, inside)
    grad_t = tl.load(grad_out + (row * width + place), mask=active, other=0.0)
    out_t = tl.load(out + (row * width + place), mask=active, other=0.0)
    cut = cut_before(begin, steps, batch, backwards, offsets, resets, last, rows)
    for i in range(begin, end):
        t_1, row_1 = locate(i + 1, steps, batch, backwards, offsets)
        active = active_at(t_1, last, inside)
        grad_1 = tl.load(grad_out + (row_1 * width + place), mask=active, other=0.0)
        out_1 = tl.load(out + (row_1 * width + place), mask=active, other=0.0)
        cut_1 = cut_before(i + 1, steps, batch, backwards, offsets, resets, last, rows)
        if arrived is not None:
            _wait(arrived + team, tl.cast(i, tl.int64) * SLICES)
        source = exchange + (i % 2) * size + base
        if RESIDENT:
            product = _product(source, in_batch, weight, H, PADDED, SPLIT, PRECISION)
        else:
            product = _streamed(
                source, in_batch, weight_hh, units < H, H, H, ROWS, COLS, DEPTH, PRECISION
            )
        # In the first iteration the product is of uninitialized memory, and is ignored.
        product = cross(product, cut)
        gradient = tl.where(active_at(t_before, last, inside) & (i > 0), product, gradient)
        dz = gradient_of(grad_t.to(tl.float32) + gradient, out_t.to(tl.float32), RELU)
        dz = dz.to(out_t.dtype)
        if i < steps:
            active = active_at(t, last, inside)
            store_step(grad_pre, row * width + place, dz, inside, active, last, offsets)
            tl.store(exchange + ((i + 1) % 2) * size + place, dz, mask=inside)
            if arrived is not None:
                _arrive(arrived + team)
        t_before = t
        t, row, grad_t, out_t = t_1, row_1, grad_1, out_1
        if resets is not None:
            cut = cut_1
    tl.store(dh + place, gradient, mask=inside)


@triton.jit
def _team(team, batch, groups, H: tl.constexpr, ROWS: tl.constexpr):
    """Return the team's group, rows [ROWS, 1], row stride G·H and row offsets in [B, G, H]."""
    group = team % groups
    rows = (team // groups * ROWS + tl.arange(0, ROWS))[:, None]
    width = groups.to(tl.int64) * H
    return group, rows, width, rows * width + group.to(tl.int64) * H


@triton.jit
def _columns(
    weight, exists, STRIDE: tl.constexpr, H: tl.constexpr, PADDED: tl.constexpr, SPLIT: tl.constexpr
):
    """Load [SPLIT, PADDED / SPLIT, COLS]: the full depth of the columns at `weight`."""
    PART: tl.constexpr = PADDED // SPLIT
    k = (tl.arange(0, SPLIT)[:, None] * PART + tl.arange(0, PART)[None, :])[:, :, None]
    return tl.load(
        weight[None, None, :] + k * STRIDE, mask=(k < H) & exists[None, None, :], other=0.0
    )


@triton.jit
def _product(
    source,  # [ROWS, 1] pointers to the rows of the state
    in_batch,
    weight,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply the state's rows by the resident columns: [ROWS, COLS]."""
    PART: tl.constexpr = PADDED // SPLIT
    k = tl.arange(0, SPLIT)[:, None, None] * PART + tl.arange(0, PART)[None, None, :]
    # .cg bypasses L1, where data that other programs wrote may be stale, and reads L2.
    state = tl.load(
        source[None, :, :] + k, mask=in_batch[None, :, :] & (k < H), other=0.0, cache_modifier=".cg"
    )
    return tl.sum(tl.dot(state, weight, input_precision=PRECISION), axis=0)


@triton.jit
def _streamed(
    source,
    in_batch,
    weight,
    exists,
    STRIDE: tl.constexpr,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply the state's rows by columns that are read from L2, DEPTH at a time."""
    z = tl.zeros([ROWS, COLS], tl.float32)
    for first in tl.range(0, H, DEPTH, num_stages=3):
        k = first + tl.arange(0, DEPTH)
        state = tl.load(
            source + k[None, :], mask=in_batch & (k < H)[None, :], other=0.0, cache_modifier=".cg"
        )
        columns = tl.load(
            weight[None, :] + k[:, None].to(tl.int64) * STRIDE,
            mask=(k < H)[:, None] & exists[None, :],
            other=0.0,
        )
        z = tl.dot(state, columns, acc=z, input_precision=PRECISION)
    return z


@triton.jit
def _arrive(counter):
    """Signal the team that this program's part of the state is written."""
    tl.debug_barrier()  # orders the stores of every thread before the release of one thread
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def _wait(counter, count):
    """Wait until the team has arrived `count` times; its earlier writes are then visible."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < count:
        pass
    tl.debug_barrier()


#: The maximum bytes of a tile's state: in shared memory, and in registers on its way there.
STATE_BYTES = 64 * 1024


def configurations(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Yield compile-time constants and compiler options for a call of these sizes, best first.

    Columns that stay in shared memory are fastest, if they fit together with the state of a tile.
    More rows per tile mean fewer programs, but each reads more of the state.
    """
    padded = power_of_two(sizes.hidden, least=128)
    operand = 2 if sizes.mode == "half" else 4
    parts = 2 if sizes.mode == "float32" else 1  # a tf32 value and its remainder
    precision = PRECISION[sizes.mode]
    common = {**OPTIONS, "H": sizes.hidden, "PADDED": padded, "PRECISION": precision}
    for rows in (16, 32):
        state, columns = rows * padded * operand * parts, 16 * padded * operand
        if state <= STATE_BYTES and state + columns <= sizes.shared:
            resident = {"ROWS": rows, "COLS": 16, "DEPTH": 0, "SPLIT": 8, "RESIDENT": True}
            yield {**common, **resident, "num_warps": 8, "num_stages": 1}
    # With 64 rows the product would use wgmma. Triton before 3.7.1 lacks the fence between
    # asynchronous copies and wgmma's reads of what they wrote.
    for rows, warps in ((16, 4), (32, 8)):
        depth = 128 // operand
        streamed = {"ROWS": rows, "COLS": 32, "DEPTH": depth, "SPLIT": 1, "RESIDENT": False}
        yield {**common, **streamed, "num_warps": warps, "num_stages": 1}


def launch_forward(
    call: Launch,
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    out: Tensor,
    h_n: Tensor,
) -> None:
    """Fill out and h_n."""
    states = h0.new_empty(2, *h0.shape)
    states[0] = h0
    tensors = (pre, weight_hh, lengths, offsets, resets, out, h_n, states)
    _launch(forward, call, tensors, call.steps, {"RELU": call.relu, "FAST": call.fast})


def launch_backward(
    call: Launch,
    grad_out: Tensor,
    grad_h_n: Tensor,
    out: Tensor,
    weight_hh: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    grad_pre: Tensor,
    grad_h0: Tensor,
) -> None:
    """Fill grad_pre and grad_h0."""
    dh = grad_h_n.to(torch.float32, copy=True)
    exchange = grad_h_n.new_empty(2, *grad_h_n.shape)
    tensors = (grad_out, out, weight_hh, lengths, offsets, resets, grad_pre, dh, exchange)
    _launch(backward, call, tensors, call.steps + 1, {"RELU": call.relu})
    grad_h0.copy_(dh)


def _launch(
    kernel: Any,
    call: Launch,
    tensors: tuple[Tensor | None, ...],
    turns: int,
    flags: dict[str, bool],
) -> None:
    """Launch all iterations at once, for as many teams at a time as fit on the device.

    If not even one team fits, launch once per iteration.
    """
    sizes = call.sizes
    for configuration in configurations(sizes):
        constants = {**flags, **configuration}
        teams = triton.cdiv(sizes.batch, configuration["ROWS"]) * sizes.groups
        slices = triton.cdiv(sizes.hidden, configuration["COLS"])
        # For compilation only: a dtype stands for a tensor of that dtype.
        arguments = (*tensors, torch.int64, *call.arguments, 0, turns, 0)
        at_once = room(kernel, arguments, constants, call.device) // slices
        if at_once >= teams:
            break
    if at_once == 0:
        arguments = (*tensors, None, *call.arguments)
        for turn in range(turns):
            kernel[(teams * slices,)](*arguments, turn, turn + 1, 0, **constants)
        return
    arrived = torch.zeros(teams, dtype=torch.int64, device=call.device)
    arguments = (*tensors, arrived, *call.arguments)
    for first in range(0, teams, at_once):
        programs = min(at_once, teams - first) * slices
        kernel[(programs,)](*arguments, 0, turns, first, launch_cooperative_grid=True, **constants)
