"""Memory, with the last accesses to each byte.

Accesses are ordered in two cases. Two accesses of the same program are ordered if the same thread
made both, or if a barrier separates them. Accesses of different programs are ordered if the first
program released the first access after a barrier of all its threads, and the second program
acquired it before such a barrier.

Two accesses to the same location, at least one of them a write, must be ordered. Otherwise they
race, in whichever order they ran this time. So the emulator need not model when a write becomes
visible or how stale a cached value can be: every read is ordered and sees the last write.

This is stricter than PTX in one respect: a release covers only accesses before the last barrier,
and an acquire takes effect only at the next one.
"""

from __future__ import annotations

import numpy as np
import torch

from .errors import Invalid, Race

Array = np.ndarray

MANY = -2  # stored instead of a thread index: several threads
WARP = 32


class Order:
    """The progress of a program, and which accesses are ordered before its next one."""

    def __init__(self, program: int = 0, programs: int = 1) -> None:
        self.program = program
        self.now = 0  #: increases with every barrier
        self.block = 0  #: accesses of all threads before this time are ordered
        self.warp = 0  #: accesses of threads of the same warp before this time are ordered
        self.known = np.zeros(programs, np.int64)  #: ordered: accesses of program p before known[p]
        self.acquired = self.known.copy()  #: becomes `known` at the next barrier
        self.acquired[program] = np.iinfo(np.int64).max  # its own are checked by thread
        self.barrier()

    def barrier(self) -> None:
        self.now += 1
        self.block = self.warp = self.now
        self.known = self.acquired.copy()

    def warp_barrier(self) -> None:
        self.now += 1
        self.warp = self.now

    def released(self) -> Array:
        """Return the times up to which an acquire from this program orders accesses."""
        message = self.known.copy()
        message[self.program] = self.block
        return message

    def acquire(self, message: Array) -> None:
        mine = self.acquired[self.program]
        self.acquired = np.maximum(self.acquired, message)
        self.acquired[self.program] = mine


class History:
    """The last write to every byte, and the last read of it by each program."""

    def __init__(self, size: int, programs: int = 1) -> None:
        self.writer = np.zeros(size, np.int32)  #: program
        self.write_thread = np.full(size, -1, np.int32)
        self.write_time = np.full(size, -1, np.int64)
        self.read_thread = np.full((programs, size), -1, np.int32)
        self.read_time = np.full((programs, size), -1, np.int64)

    def read(self, offsets: Array, threads: Array, order: Order, text: str) -> None:
        self._after_write(offsets, threads, order, text)
        last, time = self.read_thread[order.program], self.read_time[order.program]
        others = (time[offsets] >= order.block) & (last[offsets] != threads)
        time[offsets] = order.now
        last[offsets] = np.where(others, MANY, threads)
        last[offsets[last[offsets] != threads]] = MANY  # several threads of this instruction

    def write(self, offsets: Array, threads: Array, order: Order, text: str) -> None:
        self._after_write(offsets, threads, order, text)
        own = order.program
        unordered = (self.read_time[:, offsets] >= order.known[:, None]).any(0)
        last, time = self.read_thread[own, offsets], self.read_time[own, offsets]
        if (unordered | _is_unordered(last, time, threads, order)).any():
            raise Race(f"a write races with an earlier read: {text}")
        self.writer[offsets] = own
        self.write_time[offsets] = order.now
        self.write_thread[offsets] = threads
        self.write_thread[offsets[self.write_thread[offsets] != threads]] = MANY

    def _after_write(self, offsets: Array, threads: Array, order: Order, text: str) -> None:
        writer, time = self.writer[offsets], self.write_time[offsets]
        unordered = time >= order.known[writer]
        mine = writer == order.program
        unordered |= mine & _is_unordered(self.write_thread[offsets], time, threads, order)
        if unordered.any():
            raise Race(f"an access races with an earlier write: {text}")


def _is_unordered(last: Array, time: Array, threads: Array, order: Order) -> Array:
    """Whether an earlier access of the same program, by thread `last` at `time`, is unordered."""
    same_warp = (last >= 0) & (last // WARP == threads // WARP)
    return (last != threads) & (time >= order.block) & ~(same_warp & (time < order.warp))


class Memory:
    """Bytes starting at address `base`."""

    def __init__(self, size: int, base: int, programs: int = 1) -> None:
        self.base = base
        self.bytes = np.zeros(-(-size // 16) * 16, np.uint8)
        self.allocated = np.zeros(len(self.bytes), bool)
        self.history = History(len(self.bytes), programs)

    def offsets(self, addresses: Array, size: int, text: str) -> Array:
        """Return the byte offsets [address, size] of accesses of `size` bytes each."""
        first = addresses.astype(np.int64) - self.base
        if (first % size).any():
            raise Invalid(f"misaligned: {text}")
        last = first + size - 1  # an access that starts and ends inside a tensor is inside it
        inside = (first >= 0) & (last < len(self.allocated))
        if not (inside.all() and self.allocated[first].all() and self.allocated[last].all()):
            raise Invalid(f"out of bounds: {text}")
        return first[:, None] + np.arange(size)

    def get(self, offsets: Array, dtype: np.dtype) -> Array:
        """Return the values at the offsets, [address, elements]."""
        return self.bytes[offsets].view(dtype)

    def put(self, offsets: Array, values: Array, text: str) -> None:
        """Store `values` [address, elements], which have as many bytes as `offsets`."""
        written = np.ascontiguousarray(values).view(np.uint8)
        self.bytes[offsets] = written
        if not np.array_equal(self.bytes[offsets], written):
            raise Race(f"threads write different values to the same location: {text}")


class Shared(Memory):
    """The shared memory of a program, initialized with NaN, and the asynchronous accesses to it."""

    #: First address: the system reserves those below, and wgmma needs a multiple of 1024.
    BASE = 1024

    def __init__(self, size: int, garbage: np.random.Generator) -> None:
        super().__init__(size, self.BASE)
        self.order = Order()
        self.allocated[:size] = True
        self.bytes[:] = garbage.integers(0, 256, len(self.bytes))
        self.bytes |= np.tile(np.uint8([0xC0, 0x7F]), len(self.bytes) // 2)  # NaN as any float
        self.fenced = np.ones(len(self.bytes), bool)  #: visible to the async proxy, that is, wgmma
        self.cp_async_pending = np.zeros(len(self.bytes), bool)  #: a cp.async in flight writes it
        self.wgmma_readers = np.zeros(len(self.bytes), np.int32)  #: wgmmas in flight that read it

    def read(self, offsets: Array, threads: Array, order: Order, text: str) -> None:
        if self.cp_async_pending[offsets].any():
            raise Race(f"a read races with a cp.async in flight: {text}")
        self.history.read(offsets, threads, order, text)

    def write(self, offsets: Array, threads: Array, order: Order, text: str) -> None:
        if self.cp_async_pending[offsets].any():
            raise Race(f"a write races with a cp.async in flight: {text}")
        if self.wgmma_readers[offsets].any():
            raise Race(f"a write races with a wgmma in flight: {text}")
        self.history.write(offsets, threads, order, text)
        self.fenced[offsets] = False

    def begin_wgmma_read(self, offsets: Array, text: str) -> None:
        """Start the read of a wgmma."""
        if (
            self.cp_async_pending[offsets].any()
            or (self.history.write_time[offsets] >= self.order.block).any()
        ):
            raise Race(f"a wgmma reads data written since the last barrier: {text}")
        if not self.fenced[offsets].all():
            raise Race(f"a wgmma reads data without a fence.proxy.async: {text}")
        self.wgmma_readers[offsets] += 1

    def end_wgmma_read(self, offsets: Array) -> None:
        """End the read of a wgmma; a write to its operands still needs a barrier first."""
        self.wgmma_readers[offsets] -= 1
        self.history.read_thread[0, offsets] = MANY
        self.history.read_time[0, offsets] = self.order.now


class Global(Memory):
    """The tensors of a launch, separated by gaps, and the releases of each counter."""

    BASE = 1 << 20
    GAP = 512  #: unallocated bytes between tensors

    def __init__(self, tensors: list[torch.Tensor], programs: int) -> None:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
        self.begins: dict[int, int] = {}
        end = self.BASE
        for pointer, storage in storages.items():
            self.begins[pointer] = end
            end += -(-storage.nbytes() // 256) * 256 + self.GAP
        super().__init__(end - self.BASE, self.BASE, programs)
        self.buffers = []
        for pointer, storage in storages.items():
            content = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
            first = self.begins[pointer] - self.BASE
            self.bytes[first : first + len(content)] = content
            self.allocated[first : first + len(content)] = True
            self.buffers.append((first, content))
        self.version = 0  #: increases with every write
        self.counters: set[int] = set()  #: first bytes of the operands of atomics
        self.messages: dict[int, Array] = {}  #: `Order.released` of each counter, by offset

    def read(self, offsets: Array, threads: Array, order: Order, text: str) -> None:
        self._not_a_counter(offsets, text)
        self.history.read(offsets, threads, order, text)

    def write(self, offsets: Array, threads: Array, order: Order, text: str) -> None:
        self._not_a_counter(offsets, text)
        self.history.write(offsets, threads, order, text)

    def _not_a_counter(self, offsets: Array, text: str) -> None:
        if self.counters and not self.counters.isdisjoint(offsets.tolist()):
            raise Race(f"a counter is accessed without an atomic or acquire: {text}")

    def access_counter(self, offset: int, text: str) -> None:
        """Check an atomic or acquiring access to a counter."""
        if self.history.write_time[offset] >= 0 or (self.history.read_time[:, offset] >= 0).any():
            raise Race(f"a counter was accessed without an atomic or acquire: {text}")
        self.counters.add(offset)

    def address(self, tensor: torch.Tensor) -> int:
        begin = self.begins[tensor.untyped_storage().data_ptr()]
        return begin + tensor.storage_offset() * tensor.element_size()

    def copy_back(self) -> None:
        for first, content in self.buffers:
            content[:] = self.bytes[first : first + len(content)]
