"""The kernels of both backends, and FusedRNN beside nn.RNN on cuDNN, timed on a GPU.

`python -m benchmarks.gpu_timing --journal FILE` enters every measurement when it starts and what
came of it; a second call with the same file goes on after the last. Nothing has a time unless its
results agree with the float64 truth. `--compile i/n` only compiles what part i of n will need,
since compiling in n processes takes an n-th of the time.

The recurrence alone is device time, from event to event, the first launches hidden: every kernel
that can serve it, and which of them its backend would choose. A layer's time is what a user sees:
one call after the other, launches and all, theirs and ours by each backend in turns.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastrnn
from fastrnn import FusedRNN
from fastrnn.ops import dispatch, reference
from fastrnn.testing import Problem, assert_close

from .cases import Shape
from .gpu_clock import Run, device_ms, in_turns, p20_p80
from .gpu_floor import floor, gpu
from .gpu_kernels import BACKENDS, KERNELS, TRITON, Kernel, chosen, plans
from .journal import append, read
from .modes import MODES, Mode, precision

DEVICE = torch.device("cuda")
DIRECTIONS = ("forward", "backward")
STEPS = ("inference", "forward", "training")

#: Seconds after which a measurement hangs: its process is ended, for a kernel cannot be.
PATIENCE = 60


class Work(NamedTuple):
    """A layer of one direction; with groups, so many recurrences beside each other, no layer."""

    shape: Shape
    groups: int = 1
    activation: str = "tanh"

    def __str__(self) -> str:
        heads = f" x{self.groups}" if self.groups > 1 else ""
        return f"{self.shape}{heads}" + (" relu" if self.activation == "relu" else "")


ALL = tuple(MODES)
FLOAT32 = ("float32", "tf32")
HALF = ("bfloat16", "float16")


def _square(steps: int, batch: int, *hidden: int) -> list[Work]:
    return [Work(Shape(steps, batch, h, h)) for h in hidden]


#: What is measured, the most telling first: there may not be time for all.
PLAN: list[tuple[Work, tuple[str, ...]]] = [
    # FlashRNN's: a head as wide as the layer.
    *((work, ALL) for work in _square(1024, 16, 64, 128, 256, 768)),
    # Task-trained networks of neuroscience.
    (Work(Shape(500, 64, 16, 100)), FLOAT32),
    (Work(Shape(1000, 32, 8, 50), activation="relu"), FLOAT32),
    (Work(Shape(200, 256, 32, 256)), FLOAT32),
    (Work(Shape(500, 64, 32, 500)), FLOAT32),
    # Where cuDNN changes its algorithm: H 256, 384, 1024; B 1, 8, 96, 128.
    *((work, ALL) for work in _square(512, 64, 512, 1024)),
    *((work, ALL) for work in _square(512, 1, 512)),
    *((work, ALL) for work in _square(512, 128, 512)),
    *((work, ALL) for work in _square(512, 64, 264, 392)),
    *((work, HALF) for work in _square(512, 8, 1024)),
    *((work, ALL) for work in _square(256, 64, 2048)),
    *((work, ALL) for work in _square(1024, 16, 32, 16)),
    # A model of many small layers.
    (Work(Shape(100, 32, 64, 128)), ALL),
    (Work(Shape(16, 32, 256, 64)), ALL),
    *((work, ("float32", "float16")) for work in _square(512, 64, 384, 256, 896, 1152)),
    *((work, ("float32", "float16")) for work in _square(512, 136, 512)),
    # Heads, which nn.RNN knows not of.
    (Work(Shape(1024, 16, 64, 64), groups=12), ("float32", "bfloat16")),
    (Work(Shape(1024, 16, 16, 16), groups=48), ("bfloat16",)),
    (Work(Shape(1024, 16, 128, 128), groups=6), ("bfloat16",)),
    (Work(Shape(4096, 16, 16, 16), groups=64), ("float32",)),
]


def plan() -> dict[str, tuple[Work, str]]:
    """Every measurement by its name."""
    return {f"{work} {mode}": (work, mode) for work, modes in PLAN for mode in modes}


def usable() -> list[str]:
    """The backends that this machine has."""
    return [name for name in BACKENDS if dispatch.BACKENDS[name].unusable() is None]


def kernels(work: Work, mode: Mode, direction: str) -> list[Kernel]:
    """The kernels that can serve it, whichever their backends would choose."""
    shape = work.shape
    state = _empty((shape.B, work.groups, shape.H), mode)
    return [kernel for kernel in KERNELS if kernel.refuses(state, shape.T, direction) is None]


def _empty(shape: tuple[int, ...], mode: Mode) -> Tensor:
    return torch.empty(shape, dtype=mode.dtype, device=DEVICE)


def _random(shape: tuple[int, ...], mode: Mode) -> Tensor:
    return _empty(shape, mode).uniform_(-1, 1)


def _biggest(*tensors: Tensor) -> float:
    return sum(float(t.abs().max()) for t in tensors)


class _Recurrence:
    """A problem, its truth in float64, and how to ask a kernel for it."""

    def __init__(self, work: Work, mode: Mode, steps: int) -> None:
        shape, self.mode = work.shape, mode
        state, data = (shape.B, work.groups, shape.H), (steps, shape.B, work.groups, shape.H)
        self.problem = Problem(steps, *state, activation=work.activation, dtype=mode.dtype)
        # Weights that do not amplify; the problem's own data would take the CPU long to draw.
        weight_hh = Problem(1, 1, work.groups, shape.H, dtype=mode.dtype).tensors(DEVICE).weight_hh
        pre, h0 = 2 * _random(data, mode), _random(state, mode)
        rest = (weight_hh, h0, None, None, work.activation, work.groups)
        self.arguments: dict[str, tuple[Any, ...]] = {"forward": (pre, *rest)}
        self.expected = {"forward": self._truth("forward")}
        out = self.expected["forward"][0].to(mode.dtype)
        grads = _random(data, mode), _random(state, mode)
        self.arguments["backward"] = (*grads, out, *rest)
        self.expected["backward"] = self._truth("backward")

    def _truth(self, direction: str) -> tuple[Tensor, Tensor]:
        arguments = (a.double() if isinstance(a, Tensor) else a for a in self.arguments[direction])
        return getattr(reference, direction)(*arguments)

    def call(self, kernel: Kernel, direction: str) -> Callable[[], tuple[Tensor, Tensor]]:
        function = getattr(kernel.module, direction)
        return lambda: function(*self.arguments[direction], **kernel.options)

    def check(self, results: tuple[Tensor, Tensor], direction: str) -> None:
        expected = self.expected[direction]
        scale = _biggest(*self.arguments[direction][:2], expected[0])
        for actual, truth in zip(results, expected, strict=True):
            assert_close(actual, truth, self.problem, scale, self.mode.products)


def recurrence(work: Work, mode_name: str) -> Iterator[dict[str, Any]]:
    """The recurrence alone, by every kernel, in both directions."""
    rates = gpu(torch.cuda.get_device_name())
    with precision(mode_name) as mode:
        state = (work.shape.B, work.groups, work.shape.H)
        problem = _Recurrence(work, mode, work.shape.T)
        for direction in DIRECTIONS:
            for kernel in kernels(work, mode, direction):
                entry = {
                    "shape": [*work.shape],
                    "groups": work.groups,
                    "activation": work.activation,
                    "mode": mode_name,
                    "kernel": str(kernel),
                    "direction": direction,
                    **_choice(kernel, _empty(state, mode), work.shape.T, direction),
                }
                run = problem.call(kernel, direction)
                try:
                    problem.check(run(), direction)
                except AssertionError as error:
                    yield {**entry, "agrees": False, "reason": str(error)[:500]}
                    continue
                except Exception as error:
                    if _fatal(error):
                        raise
                    yield {**entry, "error": f"{type(error).__name__}: {error}"[:500]}
                    continue
                ms = device_ms(run)
                step = 1e3 * statistics.median(ms) / work.shape.T
                entry |= {"agrees": True, "repeats": len(ms), "us_a_step": step}
                entry["us_a_step_p20_p80"] = [1e3 * q / work.shape.T for q in p20_p80(ms)]
                if rates is not None:
                    least = floor(*state, mode.dtype.itemsize, mode.products, direction, rates)
                    entry |= {"floor_us": least._asdict(), "over_floor": step / least.least}
                    if "model_cycles_a_step" in entry:
                        entry["cycles_a_step"] = 1e-6 * step * rates.clock
                yield entry


def _choice(kernel: Kernel, state: Tensor, steps: int, direction: str) -> dict[str, Any]:
    """Whether its backend would choose the kernel; and of a CUDA one the plan, and its model."""
    entry: dict[str, Any] = {"chosen": kernel == chosen(kernel.backend, state, steps, direction)}
    if kernel.backend == "cuda":
        plan = plans(state, steps, direction)[1][kernel.name]
        entry |= {"plan": str(plan), "model_cycles_a_step": plan.cycles / steps}
    return entry


def layer(work: Work, mode_name: str) -> Iterator[dict[str, Any]]:
    """FusedRNN by each backend beside nn.RNN, the input's product and all."""
    shape = work.shape
    with precision(mode_name) as mode:
        torch.manual_seed(0)
        peer = nn.RNN(shape.I, shape.H, nonlinearity=work.activation).to(DEVICE, mode.dtype)
        ours = FusedRNN(shape.I, shape.H, nonlinearity=work.activation).to(DEVICE, mode.dtype)
        ours.load_state_dict(peer.state_dict())
        x = _random((shape.T, shape.B, shape.I), mode)
        grad = _random((shape.T, shape.B, shape.H), mode)
        state = _empty((shape.B, 1, shape.H), mode)
        truth = _truth(peer, x, grad)
        theirs = _error(_results(peer, x, grad), truth)
        agreeing = {}
        for backend in usable():
            names = [chosen(backend, state, shape.T, direction).name for direction in DIRECTIONS]
            entry = {
                "shape": [*shape],
                "activation": work.activation,
                "mode": mode_name,
                "backend": backend,
                "kernel": f"{backend}.{'/'.join(dict.fromkeys(names))}",
                "error_theirs": theirs,
            }
            try:
                with fastrnn.backend(backend):
                    error = _error(_results(ours, x, grad), truth)
            except Exception as failure:
                if _fatal(failure):
                    raise
                yield {**entry, "error": f"{type(failure).__name__}: {failure}"[:500]}
                continue
            entry |= {"error_ours": error, "agrees": error <= 4 * theirs + 8 * ROUNDING[mode_name]}
            if entry["agrees"]:  # NaN does not
                agreeing[backend] = entry
            else:
                reason = "farther from the float64 truth than cuDNN and rounding"
                yield {**entry, "reason": reason}
        for step in STEPS if agreeing else ():
            mine = _step(step, ours, x, grad)
            runs = [Run("auto", _step(step, peer, x, grad))]
            turns = in_turns(runs + [Run(backend, mine) for backend in agreeing])
            for i, entry in enumerate(agreeing.values(), 1):
                yield {
                    **entry,
                    "step": step,
                    "ms_theirs": statistics.median(turn[0] for turn in turns),
                    "ms_ours": statistics.median(turn[i] for turn in turns),
                    "ratio": statistics.median(turn[0] / turn[i] for turn in turns),
                    "turns": len(turns),
                }


#: What one rounding of an operand may change, relatively; of strict float32's three tf32 products
#: the last.
ROUNDING = {"float32": 2.0**-20, "tf32": 2.0**-10, "bfloat16": 2.0**-8, "float16": 2.0**-11}


def _truth(peer: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    return _results(copy.deepcopy(peer).double(), x.double(), grad.double())


def _error(results: list[Tensor], truth: list[Tensor]) -> float:
    """The largest ‖result - truth‖ / ‖truth‖ over the output and every gradient."""
    pairs = zip(results, truth, strict=True)
    return max(float((actual.double() - t).norm() / t.norm()) for actual, t in pairs)


def _results(module: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    output = module(x)[0]
    return [output.detach(), *torch.autograd.grad(output, [x, *module.parameters()], grad)]


def _step(step: str, module: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], object]:
    if step == "inference":

        def run() -> object:
            with torch.inference_mode():
                return module(x)[0]

        return run
    x = x.detach().requires_grad_()
    if step == "forward":
        return lambda: module(x)[0]
    wanted = [x, *module.parameters()]
    return lambda: torch.autograd.grad(module(x)[0], wanted, grad)


def _fatal(error: Exception) -> bool:
    """Whether the device will serve this process no more."""
    return "CUDA error" in str(error) or "illegal memory access" in str(error)


def measure(journal: Path, deadline: float) -> None:
    """All of the plan that is not yet in the journal, until the deadline."""
    begun = {entry["name"] for entry in read(journal) if entry["event"] == "started"}
    for name, (work, mode) in plan().items():
        if name in begun:
            continue
        if time.time() > deadline:
            break
        append(journal, event="started", name=name)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        for kind in (recurrence, layer) if work.groups == 1 else (recurrence,):
            try:
                for entry in kind(work, mode):
                    append(journal, event=kind.__name__, **entry)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:1000]
                append(journal, event="error", name=name, part=kind.__name__, reason=reason)
                if _fatal(error):
                    raise
        faulthandler.cancel_dump_traceback_later()
        append(journal, event="ended", name=name)
        torch.cuda.empty_cache()
    append(journal, event="finished")


def _triton(work: Work, mode_name: str, direction: str) -> list[Kernel]:
    with precision(mode_name) as mode:
        return [kernel for kernel in kernels(work, mode, direction) if kernel in TRITON]


def compile_part(index: int, count: int, deadline: float) -> None:
    """Run two steps of the Triton kernels that part `index` of `count` of the plan needs.

    T is no constant of theirs; the CUDA kernels are compiled already.
    """
    units = [
        (work, mode, kernel, direction)
        for work, mode in plan().values()
        for direction in DIRECTIONS
        for kernel in _triton(work, mode, direction)
    ]
    for work, mode_name, kernel, direction in units[index::count]:
        if time.time() > deadline:
            return
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            with precision(mode_name) as mode:
                _Recurrence(work, mode, 2).call(kernel, direction)()
                torch.cuda.synchronize()
        except Exception as error:
            if _fatal(error):
                raise
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--journal", type=Path, help="file to keep the measurements in")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds of the epoch")
    parser.add_argument("--compile", metavar="I/N", help="only compile, part I of N")
    arguments = parser.parse_args()
    if arguments.compile:
        index, count = map(int, arguments.compile.split("/"))
        compile_part(index, count, arguments.deadline)
    elif arguments.journal:
        measure(arguments.journal, arguments.deadline)
    else:
        parser.error("--journal or --compile is needed")


if __name__ == "__main__":
    main()
