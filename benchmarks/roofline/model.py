"""Four lower bounds on the time of a case; the largest of them is its roofline bound.

- arithmetic: the FLOPs of the matrix products, at the peak rate of the machine;
- bytes: the data that must be read and written at least once, at the memory bandwidth;
- steps: every step needs the whole state of the previous one, so T steps take at least T times the
  shortest possible step;
- call: the overhead of a call of torch that computes next to nothing, and of its backward.

No kernel can be faster than any of the four. It may be impossible to reach all of them at once.

The rates of a machine are measured: see cpu.py and gpu.py.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..precision import MODES
from ..shapes import Case, Shape
from ..workload import row_lengths

#: The passes over time of each kind of call.
PASSES = {
    "inference": ("forward",),
    "forward": ("forward",),
    "backward": ("backward",),
    "training": ("forward", "backward"),
}


class Machine(Protocol):
    """The peak rates of a machine."""

    def peak_flops(self, mode: str) -> float:
        """FLOPs per second in one of `precision.MODES`."""

    def bandwidth(self, size: float) -> float:
        """Bytes per second for a working set of `size` bytes."""

    def call_overhead(self, step: str) -> float:
        """Seconds of a call of torch that computes next to nothing; `step` is one of `STEPS`."""

    def step_time(self, shape: Shape, mode: str, direction: str) -> float:
        """Seconds of the shortest possible step of a layer's recurrence, forward or backward."""


class Bounds(NamedTuple):
    """Lower bounds on the time of a call, in milliseconds; records store them by these names."""

    arithmetic: float
    bytes: float
    steps: float
    call: float

    @property
    def largest(self) -> float:
        """The lower bound of the roofline model."""
        return max(self)


def bounds(case: Case, machine: Machine) -> Bounds:
    """Compute the lower bounds on the time of a case."""
    shape, mode = case.shape, case.mode
    moved = bytes_moved(case)
    step = sum(machine.step_time(shape, mode, direction) for direction in PASSES[case.step])
    return Bounds(
        1e3 * flops(case) / machine.peak_flops(mode),
        1e3 * moved / machine.bandwidth(moved),
        1e3 * shape.T * shape.layers * step,
        1e3 * machine.call_overhead(case.step),
    )


def num_rows(shape: Shape) -> int:
    """Count the pairs of a step and a batch row, without padding."""
    return int(row_lengths(shape.T, shape.B).sum()) if shape.packed else shape.T * shape.B


def flops(case: Case) -> float:
    """Count the FLOPs of all matrix products."""
    shape = case.shape
    width = shape.directions * shape.groups * shape.H  # of the output
    weights = shape.layers * width * shape.H
    if case.scope == "layer":
        weights += width * (shape.I + (shape.layers - 1) * width)
    weights *= shape.of_cell.gates
    # Forward, every weight is multiplied once with every row. Training has two more such products:
    # the gradient of the weight, and the gradient of the other factor.
    return 2.0 * num_rows(shape) * weights * (3 if case.step == "training" else 1)


def bytes_moved(case: Case) -> float:
    """Count the bytes that a call must read and write.

    Data may stay in the caches between two layers of an inference, and between the input projection
    and the recurrence. Data that is saved for the backward pass is counted again: the output of
    every layer, and the gates and inner values of a cell that has them. To compute these again
    would take the products of a second forward pass.
    """
    shape, itemsize = case.shape, MODES[case.mode].dtype.itemsize
    output, cell = shape.directions * shape.groups * shape.H, shape.of_cell
    inputs = shape.I if case.scope == "layer" else cell.gates * output
    if case.scope == "kernel" and case.step == "backward":
        # grad_out, and what was saved (of nn.RNN's cell out) -> grad_pre
        columns = (1 + (cell.saved or 1) + cell.gates) * output
    elif case.step == "training":
        # x -> out and saved of every layer; grad, the same of every layer, x -> grad_x
        inputs = (3 if case.scope == "layer" else 2) * inputs
        columns = inputs + (2 * shape.layers * (1 + cell.saved) + 1) * output
    else:
        columns = output + inputs
    return float(itemsize * num_rows(shape) * columns)


def results_mib(case: Case) -> float:
    """Compute the MiB of a call's results: the output, and in training the input's gradient."""
    shape, itemsize = case.shape, MODES[case.mode].dtype.itemsize
    output = shape.directions * shape.groups * shape.H
    columns = output
    if case.step == "training":
        columns += shape.I if case.scope == "layer" else output
    return num_rows(shape) * columns * itemsize / 2**20
