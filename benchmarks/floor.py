"""The least time a case can take on a machine, by four counts, of which the largest rules.

Arithmetic: the multiplications and additions of its matrix products, at the machine's best rate.
Bytes: what must be read and written once, at the memory's bandwidth. Steps: a step needs the whole
state of the one before, so T steps take T times what the shortest possible one takes. The
call: even an operation that does nothing has to be called, and differentiated. None of the four can
be beaten, whatever the kernel; all of them at once may be out of reach.

What a machine can do at most is measured: see cpu_floor.py and gpu_floor.py.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from .modes import MODES
from .shapes import Case, Work
from .task import row_lengths

#: The passes over time that a step consists of.
PASSES = {
    "inference": ("forward",),
    "forward": ("forward",),
    "backward": ("backward",),
    "training": ("forward", "backward"),
}


class Machine(Protocol):
    """What a machine can do at most."""

    def operations(self, mode: str) -> float:
        """Multiplications and additions a second, by one of `modes.MODES`."""

    def bandwidth(self, size: float) -> float:
        """Bytes a second, of data of so many bytes in all."""

    def call(self, step: str) -> float:
        """Seconds of a call of torch that does next to nothing: one of `shapes.STEPS`."""

    def step(
        self, batch: int, groups: int, hidden: int, mode: str, activation: str, direction: str
    ) -> float:
        """Seconds of the shortest possible step of the recurrence, forward or backward."""


class Floor(NamedTuple):
    """Milliseconds a call takes at least."""

    arithmetic: float
    bytes: float
    steps: float
    call: float

    @property
    def least(self) -> float:
        return max(self)


def floor(case: Case, machine: Machine) -> Floor:
    """The floor of a case."""
    work, mode = case.work, case.mode
    moved = bytes_moved(case)
    what = work.B, work.directions * work.groups, work.H, mode, work.activation
    step = sum(machine.step(*what, direction) for direction in PASSES[case.step])
    return Floor(
        1e3 * operations(case) / machine.operations(mode),
        1e3 * moved / machine.bandwidth(moved),
        1e3 * work.T * work.layers * step,
        1e3 * machine.call(case.step),
    )


def rows(work: Work) -> int:
    """How many (step, batch row) there are."""
    return int(row_lengths(work.T, work.B).sum()) if work.packed else work.T * work.B


def operations(case: Case) -> float:
    """Multiplications and additions of all matrix products."""
    work = case.work
    width = work.directions * work.groups * work.H  # of the output
    weights = work.layers * width * work.H
    if case.scope == "layer":
        weights += width * (work.I + (work.layers - 1) * width)
    # Forward each weight meets each row once; training, twice more: for the weight's gradient, and
    # for that of what it was multiplied with.
    return 2.0 * rows(work) * weights * (3 if case.step == "training" else 1)


def bytes_moved(case: Case) -> float:
    """What a call must read and write: its data, each as often as it is needed at times far apart.

    Between two layers of an inference, and between the input's product and the recurrence, data may
    stay in the caches; what the backward needs again may not.
    """
    work, itemsize = case.work, MODES[case.mode].dtype.itemsize
    output = work.directions * work.groups * work.H
    if case.scope == "kernel" and case.step == "backward":
        columns = 3 * output  # grad_out, out -> grad_pre
    elif case.step == "training":
        # x -> out of every layer; grad, out of every layer, and of a layer x -> grad_x
        inputs = 3 * work.I if case.scope == "layer" else 2 * output
        columns = inputs + (2 * work.layers + 1) * output
    else:
        columns = output + (work.I if case.scope == "layer" else output)
    return float(itemsize * rows(work) * columns)


def least_mib(case: Case) -> float:
    """MiB of the results of a call, which it cannot do without: out, in training the gradients."""
    work, itemsize = case.work, MODES[case.mode].dtype.itemsize
    output = work.directions * work.groups * work.H
    columns = output
    if case.step == "training":
        columns += work.I if case.scope == "layer" else output
    return rows(work) * columns * itemsize / 2**20
