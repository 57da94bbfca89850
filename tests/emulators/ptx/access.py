"""Instructions that read or write memory, except those of the tensor cores."""

from __future__ import annotations

import numpy as np

from .arithmetic import DTYPES, UINT32, Array
from .errors import Invalid
from .machine import Machine, handles
from .parser import Address, Immediate, Instruction

#: State spaces, vector sizes, cache operators, scopes, memory orders and types of ld and st.
MODIFIERS = {
    *("global", "shared", "shared_cta", "param", "v2", "v4", "cg", "ca", "gpu", "acquire"),
    *DTYPES,
}


def _elements(ins: Instruction, operand: object) -> tuple:
    if not {*ins.modifiers} <= MODIFIERS:
        raise ins.unknown()
    registers = operand if isinstance(operand, tuple) else (operand,)
    vector = next((int(m[1]) for m in ins.modifiers if m in ("v2", "v4")), 1)
    if len(registers) != vector:
        raise ins.unknown()
    return registers


@handles("ld")
def _load(machine: Machine, ins: Instruction, active: Array | None) -> None:
    target, address = ins.operands
    dtype = DTYPES[ins.type]
    registers = _elements(ins, target)
    if "param" in ins.modifiers:
        assert isinstance(address, Address)
        value = machine.parameters[address.base]
        machine.write(target, machine.read(Immediate(value), dtype), active)
        return
    size = dtype.itemsize * len(registers)
    memory, offsets, threads = machine.resolve(ins, address, size, active)
    values = memory.get(offsets, dtype)
    if "acquire" in ins.modifiers:
        _acquire(machine, ins, int(offsets[0, 0]), values)
    else:
        machine.record_access(memory, False, offsets, threads, ins.text)
    for register, value in zip(registers, values.T, strict=True):
        if active is not None:
            every = np.zeros(len(machine.threads), dtype)
            every[active] = value
            value = every
        machine.write(register, np.ascontiguousarray(value), active)


def _acquire(machine: Machine, ins: Instruction, offset: int, values: Array) -> None:
    """Acquire the last release at this offset; it takes effect at the next barrier."""
    if len(values) != 1 or "gpu" not in ins.modifiers:
        raise ins.unknown()
    memory = machine.memory
    memory.access_counter(offset, ins.text)
    seen = offset, int(values[0, 0]), memory.version
    machine.polls = machine.polls + 1 if machine.polled == seen else 1
    machine.polled = seen
    if offset in memory.messages:
        machine.order.acquire(memory.messages[offset])


@handles("st")
def _store(machine: Machine, ins: Instruction, active: Array | None) -> None:
    address, source = ins.operands
    registers = _elements(ins, source)
    if "acquire" in ins.modifiers:
        raise ins.unknown()
    dtype = DTYPES[ins.type]
    memory, offsets, threads = machine.resolve(
        ins, address, dtype.itemsize * len(registers), active
    )
    machine.record_access(memory, True, offsets, threads, ins.text)
    values = np.stack([machine.read(register, dtype) for register in registers], axis=1)
    memory.put(offsets, values if active is None else values[active], ins.text)
    if memory is machine.memory:
        memory.version += 1


@handles("atom", "red")
def _atomic(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Add to a counter from one thread, with or without release; `red` returns nothing."""
    *target, address, source = ins.operands
    if len(target) != (ins.name == "atom"):
        raise ins.unknown()
    space, *how, kind = ins.modifiers
    known = {"add"} <= {*how} <= {"add", "release", "gpu", "cta"}
    if space != "global" or kind != "u64" or not known:
        raise ins.unknown()
    dtype = DTYPES[kind]
    memory, offsets, threads = machine.resolve(ins, address, dtype.itemsize, active)
    if len(offsets) != 1:
        raise ins.unknown()
    thread, offset = threads[0, 0], int(offsets[0, 0])
    memory.access_counter(offset, ins.text)
    old = memory.get(offsets, dtype)
    memory.put(offsets, old + machine.read(source, dtype)[thread], ins.text)
    memory.version += 1
    for register in target:
        machine.write(register, np.full(len(machine.threads), old[0, 0]), active)
    if {"release", "gpu"} <= {*how}:
        before = memory.messages.get(offset, 0)
        memory.messages[offset] = np.maximum(before, machine.order.released())


@handles("cp")
def _copy(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Start a cp.async from global to shared memory; wait_group completes it at the latest."""
    form = ".".join(ins.modifiers)
    if form == "async.commit_group":
        machine.copy_groups.append([])
    elif form == "async.wait_group":
        (remaining,) = ins.operands
        assert isinstance(remaining, Immediate)
        done = max(0, len(machine.copy_groups) - 1 - remaining.bits)
        for group in machine.copy_groups[:done]:
            for copy in group:
                copy()
        del machine.copy_groups[:done]
    elif form in ("async.ca.shared.global", "async.cg.shared.global"):
        _begin_copy(machine, ins, active)
    else:
        raise ins.unknown()


def _begin_copy(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Read the source either now or when the copy is waited for, at random.

    The hardware may read it at any time between the two.
    """
    to, source, size, *bytes_read = ins.operands
    assert isinstance(size, Immediate)
    count = machine.read(bytes_read[0] if bytes_read else size, UINT32)
    if not np.isin(count, (0, size.bits)).all():
        raise Invalid(f"partial copies are not supported: {ins.text}")
    all_threads = np.ones(len(count), bool)
    participating = all_threads if active is None else active
    shared, offsets, threads = machine.resolve(ins, to, size.bits, participating)
    reads = participating & (count > 0)  # the other threads write zeros
    sources = machine.memory.offsets(machine.addresses(source)[reads], size.bits, ins.text)
    readers = np.broadcast_to(machine.threads[reads, None], sources.shape)
    values = np.zeros((len(participating), size.bits), np.uint8)

    def fetch(now: bool) -> None:
        machine.record_access(machine.memory, False, sources, readers, ins.text)
        if now:
            values[reads] = machine.memory.get(sources, values.dtype)

    def finish() -> None:
        fetch(late)
        shared.cp_async_pending[offsets] = False
        machine.record_access(shared, True, offsets, threads, ins.text)
        shared.put(offsets, values[participating], ins.text)

    late = bool(machine.random.integers(2))
    fetch(not late)
    machine.record_access(shared, True, offsets, threads, ins.text)
    shared.cp_async_pending[offsets] = True
    machine.copy_groups[-1].append(finish)
