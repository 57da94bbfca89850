"""Time the GPU kernels alone, and layers against nn.RNN on cuDNN.

`python -m tools.gpu_validation.timing --journal FILE` appends an entry to FILE when a unit of the
plan starts, and for each row that it measures. A second call with the same file resumes after the
last unit. `--compile I/N` only compiles the kernels of part I of N, so that N processes can share
the work.

The time of a kernel is device time between two events, with the launches hidden and L2 flushed. The
time of a layer includes its launches. nn.RNN and each of our backends are timed in alternation.
"""

from __future__ import annotations

import argparse
import faulthandler
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import baselines, runner, verify
from benchmarks.groups import GROUPS
from benchmarks.jsonl import append, read
from benchmarks.precision import MODES, precision
from benchmarks.report import records
from benchmarks.runner import CaseResult, DeviceLost
from benchmarks.shapes import Case, Shape
from benchmarks.timing import Times, device_times
from benchmarks.workload import Workload
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.cells import CODES, RNN_MODES
from fastrnn.ops.ragged import DENSE

from .kernels import KERNELS, TRITON, Kernel, chosen, plans

DIRECTIONS = ("forward", "backward")

#: Seconds after which a measurement counts as hung. A kernel cannot be stopped, so its process is.
PATIENCE = 60

#: Seconds for each time of a layer.
BUDGET = 0.15


class Unit(NamedTuple):
    """One shape in one mode: its kernels, and the passes of its group."""

    group: str
    shape: Shape
    mode: str

    def __str__(self) -> str:
        return f"{self.group} {self.shape} {self.mode}"


def _units(group: str, modes: Sequence[str] | None = None, **sizes: Sequence[int]) -> list[Unit]:
    """The units of a group with the given sizes."""
    return [
        Unit(group, shape, mode)
        for shape in GROUPS[group].shapes
        if all(getattr(shape, name) in values for name, values in sizes.items())
        for mode in modes or GROUPS[group].cuda
    ]


def plan() -> dict[str, Unit]:
    """All units by name. The most informative come first, as there may not be time for all."""
    units = [
        *_units("neuro"),
        *_units("stacks"),
        *_units("gated-cudnn", B=(16,)),
        *_units("gated-cudnn", ("float32", "bfloat16"), B=(1, 64)),
        *_units("cudnn", T=(1024,)),
        *_units("cudnn", H=(512, 1024), B=(1, 64)),
        *_units("flashrnn", T=(1024,), B=(16,)),
        *_units("fusion"),
        *_units("cudnn", H=(264, 392, 2048)),
        *_units("cudnn", ("float32", "float16"), H=(256, 384, 768, 896, 1152)),
        *_units("cudnn", ("float32", "float16"), B=(8, 12, 96, 128, 136)),
        *_units("xma"),
    ]
    return {str(unit): unit for unit in units}


class KernelWorkload(Workload):
    """The recurrence alone, with the arguments of the forward or backward function of a backend."""

    @cached_property
    def arguments(self) -> tuple[Any, ...]:
        pre, weight_hh, h0 = (t.detach() for t in (self.inputs[0].leaf, self.weight_hh, self.h0))
        code = CODES[RNN_MODES[self.shape.activation]]
        options = DENSE, code, self.shape.groups
        if self.case.step == "forward":
            return pre, weight_hh, h0, *options
        doubles = (t.double() for t in (pre, weight_hh, h0))
        out = reference.forward(*doubles, *options)[0].to(self.dtype)
        return self.inputs[0].grad, self.h0.detach(), out, weight_hh, h0, *options

    @cached_property
    def expected(self) -> list[Tensor]:
        """out and h_n, or grad_pre and grad_h0, in float64 from the arguments of the kernels."""
        doubles = (a.double() if isinstance(a, Tensor) else a for a in self.arguments)
        return list(getattr(reference, self.case.step)(*doubles))

    def call(self, kernel: Kernel) -> Callable[[], tuple[Tensor, Tensor]]:
        function = getattr(kernel.implementation, self.case.step)
        return lambda: function(*self.arguments, **kernel.options)


def kernels(shape: Shape, mode: str, steps: int, direction: str, device: str) -> list[Kernel]:
    """The kernels that support a shape, whether their backends would choose them or not."""
    state = _state(shape, mode, device)
    with precision(mode):
        return [k for k in KERNELS if k.unsupported_reason(state, steps, direction) is None]


def _state(shape: Shape, mode: str, device: str) -> Tensor:
    return torch.empty((shape.B, shape.groups, shape.H), dtype=MODES[mode].dtype, device=device)


def kernel_row(
    unit: Unit,
    direction: str,
    able: Sequence[Kernel],
    device: str = "cuda",
    clock: Callable[[Callable[[], object]], Times] = device_times,
) -> records.Row:
    """Measure the recurrence alone of a unit, by each of the kernels."""
    case = Case(unit.group, "kernel", unit.shape, unit.mode, direction)
    result, choices = CaseResult(case), {}
    with precision(unit.mode):
        workload = KernelWorkload(case, device)
        for kernel in able:
            name = str(kernel)
            choices[name] = _choice(kernel, _state(unit.shape, unit.mode, device), case)
            try:
                call = workload.call(kernel)
                verify.check(call(), workload)
            except AssertionError as error:
                result.wrong[name] = str(error)[:500]
                continue
            except Exception as error:
                runner.raise_if_lost(error, f"{name}, {case}")
                result.wrong[name] = f"{type(error).__name__}: {error}"[:500]
                continue
            result.times[name] = clock(call)
    return {**records.row(result), "choices": choices}


def _choice(kernel: Kernel, state: Tensor, case: Case) -> dict[str, Any]:
    """Whether the backend would choose the kernel; for CUDA also the plan and its cost model."""
    shape, direction = case.shape, case.step
    entry: dict[str, Any] = {"chosen": kernel == chosen(kernel.backend, state, shape.T, direction)}
    if kernel.backend == "cuda":
        plan = plans(state, shape.T, direction)[1][kernel.name]
        entry |= {"plan": str(plan), "model_cycles_a_step": plan.cycles / shape.T}
    return entry


def rows(unit: Unit, device: str = "cuda") -> Iterator[records.Row]:
    """Measure all rows of a unit, without lower bounds."""
    group, shape = GROUPS[unit.group], unit.shape
    if shape.layers == shape.directions == 1 and not shape.packed and shape.cell == "rnn":
        for direction in DIRECTIONS:
            able = kernels(shape, unit.mode, shape.T, direction, device)
            yield kernel_row(unit, direction, able, device)
    available, _ = baselines.select("few", device)
    for step in group.steps:
        case = Case(unit.group, group.scope, shape, unit.mode, step)
        able = [provider for provider in available if not provider.unsupported_reason(case, device)]
        yield records.row(runner.measure_times(case, able, device, BUDGET))


def measure_plan(journal: Path, deadline: float) -> None:
    """Measure the units of the plan that are not in the journal yet, until the deadline."""
    begun = {entry["name"] for entry in read(journal) if entry["event"] == "started"}
    for name, unit in plan().items():
        if name in begun:
            continue
        if time.time() > deadline:
            break
        append(journal, event="started", name=name)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            for row in rows(unit):
                append(journal, event="row", row=row)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:1000]
            append(journal, event="error", name=name, reason=reason)
            if isinstance(error, DeviceLost):
                raise
        faulthandler.cancel_dump_traceback_later()
        append(journal, event="ended", name=name)
        torch.cuda.empty_cache()
    append(journal, event="finished")


def compile_part(index: int, count: int, deadline: float) -> None:
    """Compile the Triton kernels of part `index` of `count` of the plan, by running two steps.

    Two steps suffice, because T is not a constant of these kernels. The CUDA kernels are already
    compiled.
    """
    shapes = dict.fromkeys(
        (unit.shape, unit.mode, unit.group) for unit in plan().values() if unit.shape.cell == "rnn"
    )
    todo = [
        (Case(group, "kernel", shape, mode, direction), kernel)
        for shape, mode, group in shapes
        for direction in DIRECTIONS
        for kernel in _triton(shape, mode, direction)
    ]
    for case, kernel in todo[index::count]:
        if time.time() > deadline:
            return
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            with precision(case.mode):
                KernelWorkload(case, "cuda", steps=2).call(kernel)()
                torch.cuda.synchronize()
        except Exception as error:
            runner.raise_if_lost(error, f"{kernel}, {case}")
        faulthandler.cancel_dump_traceback_later()


def _triton(shape: Shape, mode: str, direction: str) -> list[Kernel]:
    able = kernels(shape, mode, shape.T, direction, "cuda")
    return [kernel for kernel in able if kernel in TRITON]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--journal", type=Path, help="the file of the measurements")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds of the epoch")
    parser.add_argument("--compile", metavar="I/N", help="only compile part I of N")
    arguments = parser.parse_args()
    if arguments.compile:
        index, count = map(int, arguments.compile.split("/"))
        compile_part(index, count, arguments.deadline)
    elif arguments.journal:
        measure_plan(arguments.journal, arguments.deadline)
    else:
        parser.error("one of --journal and --compile is required")


if __name__ == "__main__":
    main()
