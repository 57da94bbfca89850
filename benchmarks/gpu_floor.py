"""The least a step of the recurrence can take on a GPU, by three counts.

Arithmetic: 2 B H² operations over the rate of the unit that does them. Bytes: pre and out, or
grad_out, out and grad_pre, over the memory's bandwidth. Exchange: a step needs the whole state of
the one before, so it cannot be shorter than the way of a state to all who need it, the products
that then have to wait for it, and the activation. The largest of the three is the floor.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple


class Gpu(NamedTuple):
    """A GPU's rates, from its data sheet: leads, not measurements."""

    bandwidth: float  #: bytes a second
    operations: dict[str, float]  #: a second, by the mode's products
    clock: float  #: cycles a second
    processors: int
    shared: int  #: bytes a program may use


#: Strict float32 may be three tf32 products, which is faster than the float32 units are (67e12).
_HOPPER = {"half": 989e12, "tf32": 495e12, "float32": 165e12}

#: By a part of the device's name. The PCIe and NVL forms of the H100 are others.
GPUS = {
    "H200": Gpu(4.8e12, _HOPPER, 1.755e9, 132, 232448),
    "H100 80GB HBM3": Gpu(3.35e12, _HOPPER, 1.755e9, 132, 232448),
}

#: Cycles a state takes from one program to all the others that need it, and the bytes of it that
#: pass in a cycle: within a program, within a cluster of 2 to 16, over all of the device.
CLUSTER, GRID = (2, 4, 8, 16), (32, 64, 128)
EXCHANGE = {
    1: (100, float("inf")),
    **dict.fromkeys(CLUSTER, (240, 14)),
    **dict.fromkeys(GRID, (530, 38)),
}

#: Cycles of activating and storing.
EPILOGUE = 110

#: Bytes of W_hh that a multiprocessor multiplies in a cycle: from registers, by 8 rows; from shared
#: memory, by any number; by the float32 units, by one row.
REGISTERS, SHARED, FLOAT32 = 310, 128, 512

#: Microseconds of a launch a step, which needs no exchange at all.
LAUNCH = 4.0


class Floor(NamedTuple):
    """Microseconds a step takes at least."""

    arithmetic: float
    bytes: float
    exchange: float

    @property
    def least(self) -> float:
        return max(self)


def gpu(name: str) -> Gpu | None:
    """The rates of the device torch calls so, where they are known."""
    return next((rates for part, rates in GPUS.items() if part in name), None)


def floor(
    batch: int, groups: int, hidden: int, itemsize: int, products: str, direction: str, gpu: Gpu
) -> Floor:
    """The floor of one step of G recurrences; `products` is one of the Triton backend's modes."""
    operations = 2 * batch * groups * hidden**2
    moved = (2 if direction == "forward" else 3) * batch * groups * hidden * itemsize
    return Floor(
        1e6 * operations / gpu.operations[products],
        1e6 * moved / gpu.bandwidth,
        _exchange(batch, groups, hidden, itemsize, products, gpu),
    )


def _exchange(
    batch: int, groups: int, hidden: int, itemsize: int, products: str, gpu: Gpu
) -> float:
    """The least over how many programs share a group's W_hh."""
    best = LAUNCH
    for programs, (latency, rate) in EXCHANGE.items():
        share = hidden**2 * itemsize / programs
        if share <= gpu.shared:
            rows = ceil(batch / max(1, gpu.processors // (programs * groups)))
            state = rows * hidden * itemsize / rate
            cycles = latency + state + _multiply(share, rows, products) + EPILOGUE
            best = min(best, 1e6 * cycles / gpu.clock)
    return best


def _multiply(share: float, rows: int, products: str) -> float:
    """Cycles of multiplying so many bytes of W_hh by so many rows of the state."""
    matrix = min(share / REGISTERS * ceil(rows / 8), share / SHARED)
    return min(3 * matrix, share / FLOAT32 * rows) if products == "float32" else matrix
