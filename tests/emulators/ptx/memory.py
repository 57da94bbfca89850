"""Memory, and who touched each byte of it last.

An access is ordered after another of the same program if one thread made both, or a barrier came
between; after one of another program, if that program released it and this one acquired it, each
beside a barrier of all its threads. Two accesses to the same place of which one is a write must be
ordered: if they are not, it is a race, whatever order they came in this time. So nothing needs to
be said of when a write would become visible, or how old a cached value may be: ordered reads see
the last write, and there are no others. This is stricter than PTX in one respect: what a thread
acquires, or did since the last barrier, counts only from, or up to, a barrier.
"""

from __future__ import annotations

import numpy as np
import torch

from .errors import Invalid, Race

Array = np.ndarray

MANY = -2  # in the place of a thread: several
WARP = 32


class Order:
    """How far a program is, and what it knows of the others."""

    def __init__(self, program: int = 0, programs: int = 1) -> None:
        self.program = program
        self.now = 0  #: grows with every barrier
        self.block = 0  #: what all threads did before this time is ordered
        self.warp = 0  #: what threads of the same warp did before this time is ordered
        self.known = np.zeros(programs, np.int64)  #: what program p did before known[p] is ordered
        self.learned = self.known.copy()  #: the same, from the next barrier on
        self.learned[program] = np.iinfo(np.int64).max  # of itself there are the threads to ask
        self.barrier()

    def barrier(self) -> None:
        self.now += 1
        self.block = self.warp = self.now
        self.known = self.learned.copy()

    def warp_barrier(self) -> None:
        self.now += 1
        self.warp = self.now

    def released(self) -> Array:
        """What one who acquires from this program now may know."""
        message = self.known.copy()
        message[self.program] = self.block
        return message

    def acquire(self, message: Array) -> None:
        mine = self.learned[self.program]
        self.learned = np.maximum(self.learned, message)
        self.learned[self.program] = mine


class History:
    """The last write, and the last read by each program, of every byte."""

    def __init__(self, size: int, programs: int = 1) -> None:
        self.writer = np.zeros(size, np.int32)  #: program
        self.write_thread = np.full(size, -1, np.int32)
        self.write_time = np.full(size, -1, np.int64)
        self.read_thread = np.full((programs, size), -1, np.int32)
        self.read_time = np.full((programs, size), -1, np.int64)

    def read(self, places: Array, threads: Array, order: Order, what: str) -> None:
        self._after_write(places, threads, order, what)
        last, time = self.read_thread[order.program], self.read_time[order.program]
        others = (time[places] >= order.block) & (last[places] != threads)
        time[places] = order.now
        last[places] = np.where(others, MANY, threads)
        last[places[last[places] != threads]] = MANY  # some of this very instruction

    def write(self, places: Array, threads: Array, order: Order, what: str) -> None:
        self._after_write(places, threads, order, what)
        own = order.program
        unordered = (self.read_time[:, places] >= order.known[:, None]).any(0)
        last, time = self.read_thread[own, places], self.read_time[own, places]
        if (unordered | _unordered(last, time, threads, order)).any():
            raise Race(f"a write races with an earlier read: {what}")
        self.writer[places] = own
        self.write_time[places] = order.now
        self.write_thread[places] = threads
        self.write_thread[places[self.write_thread[places] != threads]] = MANY

    def _after_write(self, places: Array, threads: Array, order: Order, what: str) -> None:
        writer, time = self.writer[places], self.write_time[places]
        unordered = time >= order.known[writer]
        mine = writer == order.program
        unordered |= mine & _unordered(self.write_thread[places], time, threads, order)
        if unordered.any():
            raise Race(f"an access races with an earlier write: {what}")


def _unordered(last: Array, time: Array, threads: Array, order: Order) -> Array:
    """Whether an access of the same program, by thread `last` at `time`, precedes for no reason."""
    same_warp = (last >= 0) & (last // WARP == threads // WARP)
    return (last != threads) & (time >= order.block) & ~(same_warp & (time < order.warp))


class Memory:
    """Bytes from address `base` on."""

    def __init__(self, size: int, base: int, programs: int = 1) -> None:
        self.base = base
        self.bytes = np.zeros(-(-size // 16) * 16, np.uint8)
        self.exists = np.zeros(len(self.bytes), bool)
        self.history = History(len(self.bytes), programs)

    def places(self, addresses: Array, size: int, what: str) -> Array:
        """The bytes [address, size] of accesses of `size` bytes each."""
        first = addresses.astype(np.int64) - self.base
        if (first % size).any():
            raise Invalid(f"misaligned: {what}")
        last = first + size - 1  # what begins and ends within a tensor lies within it
        inside = (first >= 0) & (last < len(self.exists))
        if not (inside.all() and self.exists[first].all() and self.exists[last].all()):
            raise Invalid(f"out of bounds: {what}")
        return first[:, None] + np.arange(size)

    def get(self, places: Array, dtype: np.dtype) -> Array:
        """[address, elements]"""
        return self.bytes[places].view(dtype)

    def put(self, places: Array, values: Array, what: str) -> None:
        """`values` [address, elements], of the size of the places"""
        written = np.ascontiguousarray(values).view(np.uint8)
        self.bytes[places] = written
        if not np.array_equal(self.bytes[places], written):
            raise Race(f"threads write different values to one place: {what}")


class Shared(Memory):
    """The shared memory of a program, full of garbage; what is under way to or from it."""

    #: Where it begins: below is the system's, and wgmma wants it to be a multiple of 1024.
    BASE = 1024

    def __init__(self, size: int, garbage: np.random.Generator) -> None:
        super().__init__(size, self.BASE)
        self.order = Order()
        self.exists[:size] = True
        self.bytes[:] = garbage.integers(0, 256, len(self.bytes))
        self.bytes |= np.tile(np.uint8([0xC0, 0x7F]), len(self.bytes) // 2)  # NaN, if a float
        self.fenced = np.ones(len(self.bytes), bool)  #: for the async proxy, wgmma
        self.arriving = np.zeros(len(self.bytes), bool)  #: a cp.async writes it
        self.multiplied = np.zeros(len(self.bytes), np.int32)  #: how many wgmmas read it

    def read(self, places: Array, threads: Array, order: Order, what: str) -> None:
        if self.arriving[places].any():
            raise Race(f"a read of what a cp.async is still writing: {what}")
        self.history.read(places, threads, order, what)

    def write(self, places: Array, threads: Array, order: Order, what: str) -> None:
        if self.arriving[places].any():
            raise Race(f"a write where a cp.async is still writing: {what}")
        if self.multiplied[places].any():
            raise Race(f"a write under a wgmma in flight: {what}")
        self.history.write(places, threads, order, what)
        self.fenced[places] = False

    def multiply(self, places: Array, what: str) -> None:
        """A wgmma begins to read."""
        if (
            self.arriving[places].any()
            or (self.history.write_time[places] >= self.order.block).any()
        ):
            raise Race(f"a wgmma reads what was written since the last barrier: {what}")
        if not self.fenced[places].all():
            raise Race(f"a wgmma reads what no fence.proxy.async has made known to it: {what}")
        self.multiplied[places] += 1

    def multiplied_by(self, places: Array) -> None:
        """The wgmma has read, as far as its own warps know."""
        self.multiplied[places] -= 1
        self.history.read_thread[0, places] = MANY
        self.history.read_time[0, places] = self.order.now


class Global(Memory):
    """The tensors of a launch, apart from each other, and the messages that programs exchange."""

    BASE = 1 << 20
    GAP = 512  #: bytes that are nobody's

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
            self.exists[first : first + len(content)] = True
            self.buffers.append((first, content))
        self.version = 0  #: grows whenever a value changes
        self.counters: set[int] = set()  #: the first bytes of what atomics act on
        self.messages: dict[int, Array] = {}  #: what was released at a counter

    def read(self, places: Array, threads: Array, order: Order, what: str) -> None:
        self._not_a_counter(places, what)
        self.history.read(places, threads, order, what)

    def write(self, places: Array, threads: Array, order: Order, what: str) -> None:
        self._not_a_counter(places, what)
        self.history.write(places, threads, order, what)

    def _not_a_counter(self, places: Array, what: str) -> None:
        if self.counters and not self.counters.isdisjoint(places.tolist()):
            raise Race(f"a counter is read or written as if nobody else did: {what}")

    def count_at(self, place: int, what: str) -> None:
        """An atomic or acquiring access."""
        if self.history.write_time[place] >= 0 or (self.history.read_time[:, place] >= 0).any():
            raise Race(f"a counter was read or written as if nobody else did: {what}")
        self.counters.add(place)

    def address(self, tensor: torch.Tensor) -> int:
        begin = self.begins[tensor.untyped_storage().data_ptr()]
        return begin + tensor.storage_offset() * tensor.element_size()

    def copy_back(self) -> None:
        for first, content in self.buffers:
            content[:] = self.bytes[first : first + len(content)]
