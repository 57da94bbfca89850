"""grid: the columns of a group's W_hh over many programs, which exchange the state every step.

The programs of a team share a group and a tile of the batch; each owns COLS units. A step is: read
the whole state of the tile from L2, multiply it by one's own columns, activate, write one's own
part of the state, meet the others. Two buffers take turns, so that nobody writes what another may
still be reading.

With a counter, `arrived`, one launch walks through all of time, and the programs meet there. One
that waits for another that is not running would wait for ever, so the launch is cooperative: the
driver refuses it when they do not all fit. Without, a launch is one step, and its end the meeting.

RESIDENT: the columns stay in the program, in shared memory, the product's depth shared out over
its warps. Otherwise they are read from L2 at every step, DEPTH at a time.
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
    states,  # [2, B, G, H]: of step i in states[i % 2]; at first h0 in states[0]
    arrived,  # [teams] or None: how many times a program of the team has finished a step
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
    """Steps begin to end, in the loop's order, of h_t = act(pre_t + W_hh h_{t-1})."""
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
    dh,  # [B, G, H] float32: at first grad_h_n, at last grad_h0
    exchange,  # [2, B, G, H]: dz of turn i in exchange[(i + 1) % 2]
    arrived,  # [teams] or None: how many times a program of the team has finished a turn
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
    """Turns begin to end of dz_t = (dout_t + W_hh^T dz_{t+1}) act'(h_t).

    Turn i first takes what the turn before left to the others, so there is one turn more than
    there are steps: the last only finishes dh.
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
        # Before the first turn there was none, and the product is of whatever lay there.
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
    """The team's group and rows [ROWS, 1], and where the rows of the group begin in [B, G, H]."""
    group = team % groups
    rows = (team // groups * ROWS + tl.arange(0, ROWS))[:, None]
    width = groups.to(tl.int64) * H
    return group, rows, width, rows * width + group.to(tl.int64) * H


@triton.jit
def _columns(
    weight, exists, STRIDE: tl.constexpr, H: tl.constexpr, PADDED: tl.constexpr, SPLIT: tl.constexpr
):
    """[SPLIT, PADDED / SPLIT, COLS]: all the depth of a product with the units at `weight`."""
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
    """The state's rows times the resident columns: [ROWS, COLS]."""
    PART: tl.constexpr = PADDED // SPLIT
    k = tl.arange(0, SPLIT)[:, None, None] * PART + tl.arange(0, PART)[None, None, :]
    # .cg reads L2: what other programs wrote never was in this one's L1, or is stale there.
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
    """The same with columns read from L2, DEPTH at a time."""
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
    """Tell the team that this program's part of the state is written."""
    tl.debug_barrier()  # every thread's stores come before the one thread's release
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def _wait(counter, count):
    """Wait until the team has arrived `count` times; what it wrote before can then be read."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < count:
        pass
    tl.debug_barrier()


#: What a tile's state may take of shared memory, and of the registers on its way there.
STATE_BYTES = 64 * 1024


def configurations(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Compile-time constants and compiler's options for a call of these sizes, the best first.

    Columns that stay in shared memory cost least, where they and the state of a tile fit. With
    more rows to a tile there are fewer programs, but each has more of the state to read.
    """
    padded = power_of_two(sizes.hidden, least=128)
    operand = 2 if sizes.mode == "half" else 4
    parts = 2 if sizes.mode == "float32" else 1  # a tf32 value, and what it leaves
    precision = PRECISION[sizes.mode]
    common = {**OPTIONS, "H": sizes.hidden, "PADDED": padded, "PRECISION": precision}
    for rows in (16, 32):
        state, columns = rows * padded * operand * parts, 16 * padded * operand
        if state <= STATE_BYTES and state + columns <= sizes.shared:
            resident = {"ROWS": rows, "COLS": 16, "DEPTH": 0, "SPLIT": 8, "RESIDENT": True}
            yield {**common, **resident, "num_warps": 8, "num_stages": 1}
    # With 64 rows the product would be wgmma's, and Triton before 3.7.1 forgets to fence what
    # asynchronous copies wrote before it reads that.
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
    """All turns in one launch, of as many teams at once as the device has room for.

    Where it has no room for even one, a launch a turn.
    """
    sizes = call.sizes
    for configuration in configurations(sizes):
        constants = {**flags, **configuration}
        teams = triton.cdiv(sizes.batch, configuration["ROWS"]) * sizes.groups
        slices = triton.cdiv(sizes.hidden, configuration["COLS"])
        # A dtype stands for a tensor of it, in a call that is only compiled.
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
