"""What a GPU can do at most: its data sheet's rates, and what was measured in their stead.

A step of the recurrence cannot be shorter than the way of a state to all who need it, the products
that have to wait for it, and the activation; over how many programs share W_hh, the least counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from .modes import MODES

#: Programs that share a group's W_hh in a cluster, and across the device.
CLUSTER, GRID = (2, 4, 8, 16), (32, 64, 128)

#: Bytes of W_hh that the matrix units of a multiprocessor take in for one product, of 8 batch rows;
#: and, in a cycle, those that its float32 units multiply with one row.
PRODUCT, FLOAT32 = 512, 512

#: Cycles of activating and storing.
EPILOGUE = 110


@dataclass(frozen=True)
class Gpu:
    """A GPU's rates. Cycles and bytes a cycle are those of csrc/cuda/plan.cpp, by its names."""

    memory_bandwidth: float  #: bytes a second
    rates: Mapping[str, float]  #: multiplications and additions a second, by the mode's products
    clock: float  #: cycles a second
    processors: int
    shared: int  #: bytes a program may use
    block_exchange: float = 100  #: cycles from a program's state to its own next step
    cluster_exchange: float = 240
    grid_exchange: float = 530
    cluster_bandwidth: float = 14
    grid_bandwidth: float = 38
    shared_bandwidth: float = 128
    product_cycles: float = 1.65
    launch_cycles: float = 7000
    measured: tuple[str, ...] = field(default=())  #: the names of those that are

    def operations(self, mode: str) -> float:
        return self.rates[MODES[mode].products]

    def bandwidth(self, size: float) -> float:
        """Whatever the size: L2 is flushed before a kernel is timed."""
        return self.memory_bandwidth

    def call(self, step: str) -> float:
        """That of one launch after the other."""
        return self.launch_cycles / self.clock

    def step(
        self, batch: int, groups: int, hidden: int, mode: str, activation: str, direction: str
    ) -> float:
        """The least over how many programs share a group's W_hh; a launch needs no exchange."""
        best = self.launch_cycles
        exchanges = {
            1: (self.block_exchange, float("inf")),
            **dict.fromkeys(CLUSTER, (self.cluster_exchange, self.cluster_bandwidth)),
            **dict.fromkeys(GRID, (self.grid_exchange, self.grid_bandwidth)),
        }
        for programs, (latency, rate) in exchanges.items():
            share = hidden**2 * MODES[mode].dtype.itemsize / programs
            if share <= self.shared:
                rows = ceil(batch / max(1, self.processors // (programs * groups)))
                state = rows * hidden * MODES[mode].dtype.itemsize / rate
                cycles = latency + state + self._multiply(share, rows, mode) + EPILOGUE
                best = min(best, cycles)
        return best / self.clock

    def _multiply(self, share: float, rows: int, mode: str) -> float:
        """Cycles of multiplying so many bytes of W_hh by so many rows of the state."""
        registers = share / PRODUCT * self.product_cycles * ceil(rows / 8)
        matrix = min(registers, share / self.shared_bandwidth)
        strict = MODES[mode].products == "float32"
        return min(3 * matrix, share / FLOAT32 * rows) if strict else matrix

    def calibrated(self, found: Mapping[str, Any]) -> Gpu:
        """With what `gpu_calibration` measured in place of what is assumed."""
        new: dict[str, Any] = {}
        for name, value in found.items():
            if name == "rates":
                new[name] = {**self.rates, **value}
            elif name in ("product_cycles", "cluster_bandwidth", "grid_exchange"):
                # One of several: the best, for a floor is what is possible.
                best = max if name == "cluster_bandwidth" else min
                new[name] = best(value.values()) if isinstance(value, Mapping) else value
            elif hasattr(self, name):
                new[name] = value
        return replace(self, **new, measured=tuple(new))


#: Strict float32 may be three tf32 products, which is faster than the float32 units are (67e12).
_HOPPER = {"half": 989e12, "tf32": 495e12, "float32": 165e12}

#: By a part of the device's name, from the data sheets. The PCIe and NVL forms of the H100 are
#: others.
GPUS = {
    "H200": Gpu(4.8e12, _HOPPER, 1.755e9, 132, 232448),
    "H100 80GB HBM3": Gpu(3.35e12, _HOPPER, 1.755e9, 132, 232448),
}


def best(name: str, calibrations: Iterable[Mapping[str, Any]]) -> Gpu | None:
    """The rates of a device by the best that any of its calibrations has measured."""
    rates = gpu(name)
    if rates is None:
        return None
    found = [rates.calibrated(one.get("measured", {})) for one in calibrations]
    measured = dict.fromkeys(which for one in found for which in one.measured)
    new: dict[str, Any] = {}
    for which in measured:
        values = [getattr(one, which) for one in found if which in one.measured]
        if which == "rates":
            new[which] = {mode: max(one[mode] for one in values) for mode in rates.rates}
        else:
            larger = which == "clock" or which.endswith("bandwidth")
            new[which] = max(values) if larger else min(values)
    return replace(rates, **new, measured=tuple(measured))


def gpu(name: str) -> Gpu | None:
    """The rates of the device torch calls so, where they are known."""
    return next((rates for part, rates in GPUS.items() if part in name), None)
