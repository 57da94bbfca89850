"""Instructions that read or write memory, but for the matrix unit's own."""

from __future__ import annotations

import numpy as np

from .arithmetic import DTYPES, UINT32, Array
from .errors import Invalid
from .machine import Machine, handles
from .parser import Address, Immediate, Instruction

#: How, and in which caches, an access may be said to be made; the rest are spaces and types.
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
    memory, places, threads = machine.where(ins, address, size, active)
    values = memory.get(places, dtype)
    if "acquire" in ins.modifiers:
        _acquire(machine, ins, int(places[0, 0]), values)
    else:
        machine.touch(memory, False, places, threads, ins.text)
    for register, value in zip(registers, values.T, strict=True):
        if active is not None:
            every = np.zeros(len(machine.threads), dtype)
            every[active] = value
            value = every
        machine.write(register, np.ascontiguousarray(value), active)


def _acquire(machine: Machine, ins: Instruction, place: int, values: Array) -> None:
    """What was released at this place before is known from the next barrier on."""
    if len(values) != 1 or "gpu" not in ins.modifiers:
        raise ins.unknown()
    memory = machine.memory
    memory.count_at(place, ins.text)
    seen = place, int(values[0, 0]), memory.version
    machine.polls = machine.polls + 1 if machine.polled == seen else 1
    machine.polled = seen
    if place in memory.messages:
        machine.order.acquire(memory.messages[place])


@handles("st")
def _store(machine: Machine, ins: Instruction, active: Array | None) -> None:
    address, source = ins.operands
    registers = _elements(ins, source)
    if "acquire" in ins.modifiers:
        raise ins.unknown()
    dtype = DTYPES[ins.type]
    memory, places, threads = machine.where(ins, address, dtype.itemsize * len(registers), active)
    machine.touch(memory, True, places, threads, ins.text)
    values = np.stack([machine.read(register, dtype) for register in registers], axis=1)
    memory.put(places, values if active is None else values[active], ins.text)
    if memory is machine.memory:
        memory.version += 1


@handles("atom", "red")
def _atomic(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """An addition to a counter by one thread, which may release. `red` returns nothing."""
    *target, address, source = ins.operands
    if len(target) != (ins.name == "atom"):
        raise ins.unknown()
    space, *how, kind = ins.modifiers
    known = {"add"} <= {*how} <= {"add", "release", "gpu", "cta"}
    if space != "global" or kind != "u64" or not known:
        raise ins.unknown()
    dtype = DTYPES[kind]
    memory, places, threads = machine.where(ins, address, dtype.itemsize, active)
    if len(places) != 1:
        raise ins.unknown()
    thread, place = threads[0, 0], int(places[0, 0])
    memory.count_at(place, ins.text)
    old = memory.get(places, dtype)
    memory.put(places, old + machine.read(source, dtype)[thread], ins.text)
    memory.version += 1
    for register in target:
        machine.write(register, np.full(len(machine.threads), old[0, 0]), active)
    if {"release", "gpu"} <= {*how}:
        before = memory.messages.get(place, 0)
        memory.messages[place] = np.maximum(before, machine.order.released())


@handles("cp")
def _copy(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """cp.async: from global to shared memory, begun here, finished by wait_group at the latest."""
    what = ".".join(ins.modifiers)
    if what == "async.commit_group":
        machine.copies.append([])
    elif what == "async.wait_group":
        (left,) = ins.operands
        assert isinstance(left, Immediate)
        done = max(0, len(machine.copies) - 1 - left.bits)
        for group in machine.copies[:done]:
            for copy in group:
                copy()
        del machine.copies[:done]
    elif what in ("async.ca.shared.global", "async.cg.shared.global"):
        _begin_copy(machine, ins, active)
    else:
        raise ins.unknown()


def _begin_copy(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """It may read now, or as late as it is waited for, or at any time between."""
    to, source, size, *bytes_read = ins.operands
    assert isinstance(size, Immediate)
    count = machine.read(bytes_read[0] if bytes_read else size, UINT32)
    if not np.isin(count, (0, size.bits)).all():
        raise Invalid(f"only part of it is copied: {ins.text}")
    all_threads = np.ones(len(count), bool)
    concerned = all_threads if active is None else active
    shared, places, threads = machine.where(ins, to, size.bits, concerned)
    reads = concerned & (count > 0)  # the others' places become 0
    sources = machine.memory.places(machine.addresses(source)[reads], size.bits, ins.text)
    readers = np.broadcast_to(machine.threads[reads, None], sources.shape)
    values = np.zeros((len(concerned), size.bits), np.uint8)

    def fetch(now: bool) -> None:
        machine.touch(machine.memory, False, sources, readers, ins.text)
        if now:
            values[reads] = machine.memory.get(sources, values.dtype)

    def finish() -> None:
        fetch(late)
        shared.arriving[places] = False
        machine.touch(shared, True, places, threads, ins.text)
        shared.put(places, values[concerned], ins.text)

    late = bool(machine.random.integers(2))
    fetch(not late)
    machine.touch(shared, True, places, threads, ins.text)
    shared.arriving[places] = True
    machine.copies[-1].append(finish)
