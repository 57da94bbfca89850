"""Instructions of the matrix unit: `tensor_core` says where the elements lie."""

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
    accumulator,
    described,
    from_accumulator,
    from_lanes,
    left,
    product,
    right,
    to_float,
    to_lanes,
    warp_matrices,
)

FLOAT = DTYPES["f32"]
U64 = DTYPES["u64"]
GROUP = 128  # threads of a warpgroup
MATRICES = {"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "b16"}


@handles("ldmatrix", "stmatrix")
def _matrices(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """8 x 8 matrices of 2 bytes an element, a register each."""
    machine.warp_wide(ins, active)
    writes = ins.name == "stmatrix"
    address, registers = ins.operands if writes else reversed(ins.operands)
    if not {*ins.modifiers} <= MATRICES:
        raise ins.unknown()
    assert isinstance(registers, tuple)
    transposed = "trans" in ins.modifiers
    rows = warp_matrices(machine.addresses(address), len(registers))
    shared = machine.shared
    for j, register in enumerate(registers):
        places = shared.places(rows[:, j].ravel(), 16, ins.text).reshape(-1, 8, 16)
        first = to_lanes(places[..., ::2], transposed)  # of the two bytes of each element
        mine = np.stack([first, first + 1], axis=2).reshape(len(first), -1)
        threads = np.broadcast_to(machine.threads[:, None], mine.shape)
        machine.touch(shared, writes, mine, threads, ins.text)
        if writes:
            values = machine.read(register, UINT32).view(np.uint16)
            shared.put(places, from_lanes(values, transposed), ins.text)
        else:
            values = shared.get(mine, np.dtype(np.uint16))
            machine.write(register, np.ascontiguousarray(values).view(UINT32)[:, 0])


def _stacked(machine: Machine, registers: object, dtype: np.dtype) -> Array:
    """[threads, elements] of several registers."""
    assert isinstance(registers, tuple)
    values = np.stack([machine.read(register, UINT32) for register in registers], axis=1)
    return values.view(dtype)


@handles("mma")
def _multiply(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """A warp's product [16, k] x [k, 8]."""
    machine.warp_wide(ins, active)
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
    sums = product(
        to_float(left(a, k), kind),
        to_float(right(b, k), kind),
        accumulator(_stacked(machine, c, FLOAT), 8),
    )
    assert isinstance(d, tuple)
    for register, value in zip(d, from_accumulator(sums).T, strict=True):
        machine.write(register, value.copy())


class InFlight(NamedTuple):
    """What a wgmma uses until it is waited for."""

    places: list[Array]  #: of shared memory
    written: set[str]
    read: set[str]


@handles("wgmma")
def _warpgroup(machine: Machine, ins: Instruction, active: Array | None) -> None:
    machine.warp_wide(ins, active)
    what = ins.modifiers[0]
    if what == "fence":
        machine.unfenced.clear()
    elif what == "commit_group":
        machine.products.append([])
    elif what == "wait_group":
        (left_over,) = ins.operands
        assert isinstance(left_over, Immediate)
        _wait(machine, left_over.bits)
    elif what == "mma_async":
        _multiply_async(machine, ins)
    else:
        raise ins.unknown()


def _wait(machine: Machine, left_over: int) -> None:
    """Until no more than so many groups are in flight."""
    done = max(0, len(machine.products) - 1 - left_over)
    for group in machine.products[:done]:
        for flight in group:
            for places in flight.places:
                machine.shared.multiplied_by(places)
    del machine.products[:done]
    flying = [flight for group in machine.products for flight in group]
    machine.in_flight = set().union(*(flight.written for flight in flying))
    machine.operands_in_flight = set().union(*(flight.read for flight in flying))


def _multiply_async(machine: Machine, ins: Instruction) -> None:
    """A warpgroup's product [64, 16] x [16, columns], added to d or in its place."""
    form = re.fullmatch(
        r"mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.(bf16|f16)\.\2", ".".join(ins.modifiers)
    )
    d, a, b, add, *signs_and_turns = ins.operands
    flags = [int(f.bits) for f in signs_and_turns if isinstance(f, Immediate)]
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
        left_operand = left(halves, 16).reshape(groups, 64, 16)
    else:
        left_operand = _from_shared(machine, ins, a, 64, bool(flags[2]), used)
    machine.in_flight -= {*d}  # the one product may follow the other
    sums: Array = np.zeros((), np.float32)
    adds = machine.read(add, PRED)
    if adds.any():
        if not adds.all():
            raise Invalid(f"threads disagree: {ins.text}")
        sums = accumulator(_stacked(machine, d, FLOAT), columns).reshape(groups, 64, columns)
    sums = product(
        to_float(left_operand, kind), to_float(right_operand, kind).transpose(0, 2, 1), sums
    )
    values = from_accumulator(sums.reshape(-1, 16, columns))
    for register, value in zip(d, values.T, strict=True):
        machine.registers[register] = np.ascontiguousarray(value).view(UINT32)
    machine.products[-1].append(InFlight(used, {*d}, reads))
    machine.in_flight |= {*d}
    machine.operands_in_flight |= reads


def _from_shared(
    machine: Machine, ins: Instruction, operand: object, rows: int, turned: bool, used: list[Array]
) -> Array:
    """[warpgroups, rows, 16] bits of what the descriptors describe; the places go to `used`."""
    shared: Shared = machine.shared
    matrices = []
    descriptors = machine.read(operand, U64).reshape(-1, GROUP)  # type: ignore[arg-type]
    for descriptor in descriptors:
        if (descriptor != descriptor[0]).any():
            raise Invalid(f"a warpgroup's threads disagree: {ins.text}")
        addresses = described(int(descriptor[0]), rows, turned)
        places = shared.places(addresses.ravel(), 2, ins.text)
        unique = np.unique(places)
        shared.multiply(unique, ins.text)
        used.append(unique)
        matrices.append(shared.get(places, np.dtype(np.uint16)).reshape(rows, 16))
    return np.stack(matrices)


@handles("fence")
def _fence(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """What was written to shared memory, and is ordered, is for wgmma to read."""
    machine.warp_wide(ins, active)
    if ins.modifiers != ("proxy", "async", "shared_cta"):
        raise ins.unknown()
    machine.shared.fenced[:] = True
