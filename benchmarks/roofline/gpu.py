"""The peak rates of a GPU: measured where possible, or else from its data sheet.

A step of the recurrence takes at least the exchange of the state, the products that depend on it,
and the activation. Its lower bound is the minimum over the number of programs that share W_hh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from ..precision import MODES
from ..shapes import Shape

#: Numbers of programs that may share a group's W_hh, in a cluster and across the device.
CLUSTER_SIZES, GRID_SIZES = (2, 4, 8, 16), (32, 64, 128)

#: Bytes of W_hh that the tensor cores of a multiprocessor multiply by 8 batch rows in one product,
#: and bytes that its float32 units multiply by one row in a cycle.
PRODUCT_BYTES, FLOAT32_BYTES = 512, 512

#: Cycles of the activation and the store.
EPILOGUE = 110


@dataclass(frozen=True)
class Gpu:
    """The rates of a GPU, in cycles and bytes per cycle, with the names of csrc/cuda/plan.cpp."""

    memory_bandwidth: float  #: bytes per second
    rates: Mapping[str, float]  #: FLOPs per second, by the mode's products
    clock: float  #: cycles per second
    processors: int
    shared: int  #: bytes of shared memory that a program may use
    block_exchange: float = 100  #: cycles from a program's state to its own next step
    cluster_exchange: float = 240
    grid_exchange: float = 530
    cluster_bandwidth: float = 14
    grid_bandwidth: float = 38
    shared_bandwidth: float = 128
    product_cycles: float = 1.65
    launch_cycles: float = 7000
    measured: tuple[str, ...] = field(default=())  #: the names of the measured rates

    def peak_flops(self, mode: str) -> float:
        return self.rates[MODES[mode].products]

    def bandwidth(self, size: float) -> float:
        """Bytes per second; equal for all sizes, because L2 is flushed before each kernel."""
        return self.memory_bandwidth

    def call_overhead(self, step: str) -> float:
        """Seconds from one launch to the next."""
        return self.launch_cycles / self.clock

    def step_time(self, shape: Shape, mode: str, direction: str) -> float:
        """Seconds of the shortest step: the minimum over the number of programs that share W_hh.

        In the backward pass of a cell with gates, the programs may exchange partial sums of the
        gradient of h. It has the size of the state.
        """
        best = self.launch_cycles  # one launch per step needs no exchange
        groups, itemsize = shape.directions * shape.groups, MODES[mode].dtype.itemsize
        exchanges = {
            1: (self.block_exchange, float("inf")),
            **dict.fromkeys(CLUSTER_SIZES, (self.cluster_exchange, self.cluster_bandwidth)),
            **dict.fromkeys(GRID_SIZES, (self.grid_exchange, self.grid_bandwidth)),
        }
        for programs, (latency, rate) in exchanges.items():
            share = shape.of_cell.gates * shape.H**2 * itemsize / programs
            if share <= self.shared:
                rows = ceil(shape.B / max(1, self.processors // (programs * groups)))
                state = rows * shape.H * itemsize / rate
                cycles = latency + state + self._multiply(share, rows, mode) + EPILOGUE
                best = min(best, cycles)
        return best / self.clock

    def _multiply(self, share: float, rows: int, mode: str) -> float:
        """Cycles of the product of a share of W_hh, in bytes, with rows of the state."""
        registers = share / PRODUCT_BYTES * self.product_cycles * ceil(rows / 8)
        matrix = min(registers, share / self.shared_bandwidth)
        strict = MODES[mode].products == "float32"
        return min(3 * matrix, share / FLOAT32_BYTES * rows) if strict else matrix

    def calibrated(self, found: Mapping[str, Any]) -> Gpu:
        """Return these rates with the assumed ones replaced by those that were measured."""
        new: dict[str, Any] = {}
        for name, value in found.items():
            if name == "rates":
                new[name] = {**self.rates, **value}
            elif name in ("product_cycles", "cluster_bandwidth", "grid_exchange"):
                # The best of several measurements, because a lower bound must be possible.
                best = max if name == "cluster_bandwidth" else min
                new[name] = best(value.values()) if isinstance(value, Mapping) else value
            elif hasattr(self, name):
                new[name] = value
        return replace(self, **new, measured=tuple(new))


#: Strict float32 may use three tf32 products, which are faster than the float32 units (67e12).
_HOPPER = {"half": 989e12, "tf32": 495e12, "float32": 165e12}

#: From the data sheets, by a part of the device name. The H100 PCIe and NVL have other rates.
GPUS = {
    "H200": Gpu(4.8e12, _HOPPER, 1.755e9, 132, 232448),
    "H100 80GB HBM3": Gpu(3.35e12, _HOPPER, 1.755e9, 132, 232448),
}


def best_of(name: str, calibrations: Iterable[Mapping[str, Any]]) -> Gpu | None:
    """Return the best rates that any calibration of a device measured."""
    rates = machine(name)
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


def machine(name: str) -> Gpu | None:
    """Return the rates of a device by its name in torch, or None if they are unknown."""
    return next((rates for part, rates in GPUS.items() if part in name), None)
