"""Tensor core instructions; `tensor_core` defines the layouts of their operands."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from .arithmetic import DTYPES, PRED, UINT32, Array
from .errors import Invalid
from .machine import Machine, handles
from .memory import Shared
from .parser import Immediate, Instruction
from .tensor_core import (
    descriptor_addresses,
    from_lanes,
    gather_accumulator,
    gather_left,
    gather_right,
    multiply_add,
    row_addresses,
    scatter_accumulator,
    to_float,
    to_lanes,
)

FLOAT = DTYPES["f32"]
U64 = DTYPES["u64"]
GROUP = 128  # threads of a warpgroup
MATRICES = {"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "b16"}


@handles("ldmatrix", "stmatrix")
def _matrices(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Load or store 8 x 8 matrices of 2-byte elements, one register per matrix."""
    machine.require_all_threads(ins, active)
    writes = ins.name == "stmatrix"
    address, registers = ins.operands if writes else reversed(ins.operands)
    if not {*ins.modifiers} <= MATRICES:
        raise ins.unknown()
    assert isinstance(registers, tuple)
    transposed = "trans" in ins.modifiers
    rows = row_addresses(machine.addresses(address), len(registers))
    shared = machine.shared
    for j, register in enumerate(registers):
        offsets = shared.offsets(rows[:, j].ravel(), 16, ins.text).reshape(-1, 8, 16)
        first = to_lanes(offsets[..., ::2], transposed)  # the first byte of each element
        mine = np.stack([first, first + 1], axis=2).reshape(len(first), -1)
        threads = np.broadcast_to(machine.threads[:, None], mine.shape)
        machine.record_access(shared, writes, mine, threads, ins.text)
        if writes:
            values = machine.read(register, UINT32).view(np.uint16)
            shared.put(offsets, from_lanes(values, transposed), ins.text)
        else:
            values = shared.get(mine, np.dtype(np.uint16))
            machine.write(register, np.ascontiguousarray(values).view(UINT32)[:, 0])


def _stacked(machine: Machine, registers: object, dtype: np.dtype) -> Array:
    """Return the elements of several registers, [threads, elements]."""
    assert isinstance(registers, tuple)
    values = np.stack([machine.read(register, UINT32) for register in registers], axis=1)
    return values.view(dtype)


@handles("mma")
def _multiply(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Multiply [16, k] by [k, 8] and add c, per warp."""
    machine.require_all_threads(ins, active)
    form = re.fullmatch(
        r"sync\.aligned\.m16n8k(\d+)\.row\.col\.f32\.(bf16|f16|tf32)\.\2\.f32",
        ".".join(ins.modifiers),
    )
    if form is None or (form[1], form[2] == "tf32") not in (("16", False), ("8", True)):
        raise ins.unknown()
    k, kind = int(form[1]), form[2]
    d, a, b, c = ins.operands
    bits = DTYPES["u32" if kind == "tf32" else "u16"]
    a, b = _stacked(machine, a, bits), _stacked(machine, b, bits)
    sums = multiply_add(
        to_float(gather_left(a, k), kind),
        to_float(gather_right(b, k), kind),
        gather_accumulator(_stacked(machine, c, FLOAT), 8),
    )
    assert isinstance(d, tuple)
    for register, value in zip(d, scatter_accumulator(sums).T, strict=True):
        machine.write(register, value.copy())


class InFlight(NamedTuple):
    """The memory and registers that a wgmma uses until it is waited for."""

    offsets: list[Array]  #: bytes of shared memory that it reads
    written: set[str]  #: registers
    read: set[str]  #: registers


@handles("wgmma")
def _warpgroup(machine: Machine, ins: Instruction, active: Array | None) -> None:
    machine.require_all_threads(ins, active)
    form = ins.modifiers[0]
    if form == "fence":
        machine.unfenced.clear()
    elif form == "commit_group":
        machine.wgmma_groups.append([])
    elif form == "wait_group":
        (remaining,) = ins.operands
        assert isinstance(remaining, Immediate)
        _wait(machine, remaining.bits)
    elif form == "mma_async":
        _multiply_async(machine, ins)
    else:
        raise ins.unknown()


def _wait(machine: Machine, remaining: int) -> None:
    """Complete groups until at most `remaining` are in flight."""
    done = max(0, len(machine.wgmma_groups) - 1 - remaining)
    for group in machine.wgmma_groups[:done]:
        for flight in group:
            for offsets in flight.offsets:
                machine.shared.end_wgmma_read(offsets)
    del machine.wgmma_groups[:done]
    unfinished = [flight for group in machine.wgmma_groups for flight in group]
    machine.in_flight = set().union(*(flight.written for flight in unfinished))
    machine.operands_in_flight = set().union(*(flight.read for flight in unfinished))


def _multiply_async(machine: Machine, ins: Instruction) -> None:
    """Multiply [64, 16] by [16, columns] per warpgroup; add the product to d or overwrite d."""
    form = re.fullmatch(
        r"mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.(bf16|f16)\.\2", ".".join(ins.modifiers)
    )
    d, a, b, add, *signs_and_transposes = ins.operands
    flags = [int(f.bits) for f in signs_and_transposes if isinstance(f, Immediate)]
    in_registers = isinstance(a, tuple)
    if form is None or flags[:2] != [1, 1] or len(flags) != (3 if in_registers else 4):
        raise ins.unknown()
    columns, kind = int(form[1]), form[2]
    assert isinstance(d, tuple)
    reads = {r for r in a if isinstance(r, str)} if in_registers else set()
    if machine.unfenced & (reads | ({*d} - machine.in_flight)):
        raise Invalid(f"registers were written since the last wgmma.fence: {ins.text}")

    groups = len(machine.threads) // GROUP
    used: list[Array] = []
    right_operand = _from_shared(machine, ins, b, columns, bool(flags[-1]), used)
    if in_registers:
        halves = _stacked(machine, a, DTYPES["u16"])
        left_operand = gather_left(halves, 16).reshape(groups, 64, 16)
    else:
        left_operand = _from_shared(machine, ins, a, 64, bool(flags[2]), used)
    machine.in_flight -= {*d}  # a wgmma may accumulate onto another in flight
    sums: Array = np.zeros((), np.float32)
    adds = machine.read(add, PRED)
    if adds.any():
        if not adds.all():
            raise Invalid(f"scale-d differs between threads: {ins.text}")
        sums = gather_accumulator(_stacked(machine, d, FLOAT), columns).reshape(groups, 64, columns)
    sums = multiply_add(
        to_float(left_operand, kind), to_float(right_operand, kind).transpose(0, 2, 1), sums
    )
    values = scatter_accumulator(sums.reshape(-1, 16, columns))
    for register, value in zip(d, values.T, strict=True):
        machine.registers[register] = np.ascontiguousarray(value).view(UINT32)
    machine.wgmma_groups[-1].append(InFlight(used, {*d}, reads))
    machine.in_flight |= {*d}
    machine.operands_in_flight |= reads


def _from_shared(
    machine: Machine,
    ins: Instruction,
    operand: object,
    rows: int,
    transposed: bool,
    used: list[Array],
) -> Array:
    """Return an operand in shared memory, [warpgroups, rows, 16] bits; append offsets to `used`."""
    shared: Shared = machine.shared
    matrices = []
    descriptors = machine.read(operand, U64).reshape(-1, GROUP)  # type: ignore[arg-type]
    for descriptor in descriptors:
        if (descriptor != descriptor[0]).any():
            raise Invalid(f"descriptors differ between threads of a warpgroup: {ins.text}")
        addresses = descriptor_addresses(int(descriptor[0]), rows, transposed)
        offsets = shared.offsets(addresses.ravel(), 2, ins.text)
        unique = np.unique(offsets)
        shared.begin_wgmma_read(unique, ins.text)
        used.append(unique)
        matrices.append(shared.get(offsets, np.dtype(np.uint16)).reshape(rows, 16))
    return np.stack(matrices)


@handles("fence")
def _fence(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Make writes to shared memory visible to the async proxy, which wgmma uses."""
    machine.require_all_threads(ins, active)
    if ins.modifiers != ("proxy", "async", "shared_cta"):
        raise ins.unknown()
    machine.shared.fenced[:] = True
