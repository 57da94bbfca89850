"""One program (CTA), which executes each instruction for all its threads in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .arithmetic import DTYPES, PRED, UINT32, Array, Operation, operation
from .errors import Deadlock, Invalid, Unknown
from .memory import WARP, Global, Order, Shared
from .parser import Address, Immediate, Instruction, Operand, Program

#: Executes an instruction, given the mask of its active threads, or None for all threads.
Handler = Callable[["Machine", Instruction, "Array | None"], None]
HANDLERS: dict[str, Handler] = {}

#: An instruction and its implementation, which is None for control flow.
Step = tuple[Instruction, "Operation | Handler | None"]


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for the named instructions."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


#: Other programs may run before these instructions.
YIELD_BEFORE = {"ld", "st", "atom", "red", "cp", "bar"}

#: A program waits once it has read the same value of a counter this many times in a row.
MAX_POLLS = 3

#: A program that takes more branches than this is considered an infinite loop.
MAX_BRANCHES = 100_000


class Machine:
    """The registers and memories of a program; `run` yields where other programs may run."""

    def __init__(
        self,
        program: Program,
        code: list[Step],
        index: int,
        programs: int,
        arguments: list[int],
        shared: int,
        memory: Global,
        random: np.random.Generator,
    ) -> None:
        self.program = program
        self.code = code
        self.threads = np.arange(program.threads, dtype=np.int32)
        self.shared = Shared(shared, random)
        self.memory = memory
        self.random = random
        self.order = Order(index, programs)
        self.parameters = dict(zip(program.parameters, arguments, strict=False))
        self.registers: dict[str, Array] = {
            "%tid.x": self.threads.astype(UINT32),
            "%ctaid.x": self._full(index, UINT32),
            "global_smem": self._full(Shared.BASE, UINT32),
        }
        self.constants: dict[tuple[int, np.dtype], Array] = {}
        self.branches = 0
        self.polled = (0, 0, -1)  #: the counter last read, its value, and the memory's version
        self.polls = 0  #: how many times in a row `polled` was the same
        self.copy_groups: list[list] = [[]]  #: groups of cp.async; the last is still open
        self.wgmma_groups: list = [[]]  #: groups of wgmma; the last is still open
        self.in_flight: set[str] = set()  #: registers that a wgmma will write
        self.operands_in_flight: set[str] = set()  #: registers that a wgmma reads
        self.unfenced: set[str] = set()  #: registers written since the last wgmma.fence

    @property
    def waiting(self) -> bool:
        """Whether the program polls a counter, and no global memory has changed since."""
        return self.polls >= MAX_POLLS and self.polled[2] == self.memory.version

    def run(self) -> Iterator[None]:
        """Run the program to its end. A loop that polls a counter yields forever; see `waiting`."""
        position = 0
        while True:
            ins, implementation = self.code[position]
            position += 1
            if ins.name in YIELD_BEFORE:
                yield
            active = self._active(ins)
            if active is not None and not active.any():
                continue
            if isinstance(implementation, Operation):
                self._compute(ins, implementation, active)
            elif implementation is not None:
                implementation(self, ins, active)
            elif active is not None:
                raise Invalid(f"the threads diverge: {ins.text}")
            elif ins.name == "ret":
                return
            else:
                position = self.program.labels[ins.operands[0]]
                self.branches += 1
                if self.branches > MAX_BRANCHES:
                    raise Deadlock(f"infinite loop: {ins.text}")

    def _active(self, ins: Instruction) -> Array | None:
        if ins.guard is None:
            return None
        mask = self.read(ins.guard, PRED)
        mask = ~mask if ins.negated else mask
        return None if mask.all() else mask

    def _compute(self, ins: Instruction, operation: Operation, active: Array | None) -> None:
        target, *sources = ins.operands
        if len(sources) != len(operation.sources):
            raise ins.unknown()
        values = [self.read(s, d) for s, d in zip(sources, operation.sources, strict=True)]
        with np.errstate(all="ignore"):
            result = operation.compute(*values)
        if isinstance(target, tuple):
            for register, value in zip(target, result, strict=True):
                self.write(register, value, active)
        else:
            self.write(target, result, active)

    def _full(self, bits: int, dtype: np.dtype) -> Array:
        if dtype == PRED:
            return np.full(len(self.threads), bits != 0)
        size = dtype.itemsize
        return np.full(len(self.threads), bits & (1 << 8 * size) - 1, f"u{size}").view(dtype)

    def read(self, operand: Operand, dtype: np.dtype) -> Array:
        """Return every thread's value, truncated or zero-extended to the size of dtype."""
        if isinstance(operand, Immediate):
            key = (operand.bits, dtype)
            if key not in self.constants:
                self.constants[key] = self._full(*key)
            return self.constants[key]
        value = self.registers.get(operand)
        if value is None:
            if operand in self.program.written or not str(operand).startswith("%"):
                raise Invalid(f"{operand} is read before it is written")
            return self._full(-1, dtype)  # LLVM's `undef`, which must not affect results: NaN
        if operand in self.in_flight:
            raise Invalid(f"{operand} is read while a wgmma in flight writes it")
        if value.dtype == dtype:
            return value
        if value.itemsize != dtype.itemsize:
            value = value.astype(f"u{dtype.itemsize}")
        return value.view(dtype)

    def write(self, register: str, value: Array, active: Array | None = None) -> None:
        if register == "_":
            return
        if register in self.in_flight or register in self.operands_in_flight:
            raise Invalid(f"{register} is written while a wgmma in flight uses it")
        dtype = self.program.widths.get(register.rstrip("0123456789"))
        if dtype is None:
            raise Unknown(f"the emulator does not know the register {register}")
        if value.dtype != dtype:
            same = value.itemsize == dtype.itemsize and dtype != PRED
            value = value.view(dtype) if same else value.astype(dtype)
        if active is not None:
            old = self.registers.get(register)
            old = self._full(0xBAD0_BAD0_BAD0_BAD0, dtype) if old is None else old
            value = np.where(active, value, old)
        self.registers[register] = value
        self.unfenced.add(register)

    def addresses(self, operand: Operand) -> Array:
        """Return every thread's address."""
        assert isinstance(operand, Address)
        base = self.registers.get(operand.base)
        if base is None:
            raise Invalid(f"{operand.base} is read before it is written")
        return base.astype(np.int64) + operand.offset

    def resolve(self, ins: Instruction, address: Operand, size: int, active: Array | None) -> tuple:
        """Return the memory of an access, and the offset and thread of each of its bytes."""
        memory: Shared | Global = self.shared if _in_shared(ins) else self.memory
        chosen = slice(None) if active is None else active
        offsets = memory.offsets(self.addresses(address)[chosen], size, ins.text)
        return memory, offsets, np.broadcast_to(self.threads[chosen, None], offsets.shape)

    def record_access(
        self, memory: Shared | Global, write: bool, offsets: Array, threads: Array, text: str
    ) -> None:
        """Record accesses, and check that they race with no earlier one."""
        offsets, threads = offsets.ravel(), threads.ravel()
        order = memory.order if isinstance(memory, Shared) else self.order
        (memory.write if write else memory.read)(offsets, threads, order, text)

    def require_all_threads(self, ins: Instruction, active: Array | None) -> None:
        if active is not None:
            raise Invalid(f"all threads must be active: {ins.text}")


def _in_shared(ins: Instruction) -> bool:
    return any(modifier.startswith("shared") for modifier in ins.modifiers)


def decode(program: Program) -> list[Step]:
    """Look up the implementation of every instruction, whether or not it ever runs.

    Raises:
        Unknown: The emulator does not implement an instruction.
    """
    return [(ins, _decode(ins)) for ins in program.code]


def _decode(ins: Instruction) -> Operation | Handler | None:
    if ins.name in ("bra", "ret"):
        return None
    return HANDLERS[ins.name] if ins.name in HANDLERS else operation(ins)


@handles("mov")
def _move(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Move a register, split one into several, or join several into one."""
    target, source = ins.operands
    dtype = DTYPES[ins.type]
    targets = target if isinstance(target, tuple) else (target,)
    sources = source if isinstance(source, tuple) else (source,)
    if len(targets) > 1:
        part = np.dtype(f"u{dtype.itemsize // len(targets)}")
        values = machine.read(source, dtype).view(part).reshape(-1, len(targets)).T
    elif len(sources) > 1:
        part = np.dtype(f"u{dtype.itemsize // len(sources)}")
        parts = np.stack([machine.read(s, part) for s in sources], axis=1)
        values = np.ascontiguousarray(parts).view(dtype).T
    else:
        values = machine.read(source, dtype)[None]
    for register, value in zip(targets, values, strict=True):
        machine.write(register, np.ascontiguousarray(value), active)
    if machine.unfenced.isdisjoint(sources):
        # LLVM inserts copies between wgmma.fence and wgmma, which ptxas removes.
        machine.unfenced -= {*targets}


@handles("bar")
def _barrier(machine: Machine, ins: Instruction, active: Array | None) -> None:
    machine.require_all_threads(ins, active)
    if ins.text not in ("bar.sync 0", "bar.warp.sync -1"):
        raise ins.unknown()
    whole = ins.modifiers[0] == "sync" or len(machine.threads) == WARP
    for order in (machine.order, machine.shared.order):
        (order.barrier if whole else order.warp_barrier)()


@handles("shfl")
def _shuffle(machine: Machine, ins: Instruction, active: Array | None) -> None:
    """Read each lane's value from another lane of its warp."""
    machine.require_all_threads(ins, active)
    target, source, by, clamp, mask = ins.operands
    mode = ins.modifiers[1]
    if isinstance(target, tuple) or clamp != Immediate(31) or mask != Immediate(-1):
        raise ins.unknown()
    lane, amount = machine.threads % WARP, machine.read(by, UINT32).astype(np.int32)
    if mode not in ("bfly", "idx", "down"):
        raise ins.unknown()
    other = {"bfly": lane ^ amount, "idx": amount % WARP, "down": lane + amount}[mode]
    other = np.where(other < WARP, other, lane)
    machine.write(target, machine.read(source, UINT32)[machine.threads - lane + other])
