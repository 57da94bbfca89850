"""What a CPU can do at most: `python -m benchmarks.cpu_floor` measures and prints it.

calibrate.cpp measures the processor, torch its matrix products.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch

from .jsonl import constants
from .modes import MODES
from .process import run
from .shapes import STEPS
from .task import Inputs, stepped

SOURCE = Path(__file__).parent / "calibrate.cpp"
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-pthread")

#: The constants that are the better the smaller they are.
LEAST = ("multiply_add_latency", "store_load_latency", "hand_off", "call")

#: Seconds of the compiler, and of the program.
COMPILING, MEASURING = 60, 60

#: Sizes of square matrices whose product may reach the machine's best rate.
GEMM_SIZES = (512, 1024, 1536, 2048)
CPU_MODES = ("float32", "bfloat16", "float16")

#: From within L1 to beyond L3.
BANDWIDTH_SIZES = [2**power for power in range(13, 29)]

#: Dependent operations from a step's sum to its state, at the least: relu is one. tanh is a
#: reduction of the argument (two), a polynomial of degree 7 (three, by Estrin's scheme), its
#: scaling (one), and a division, which takes as long as four.
ACTIVATION = {"tanh": 10, "relu": 1}

#: The same of the backward: (grad + sum) times the derivative.
DERIVATIVE = 2


@dataclass(frozen=True)
class Cpu:
    """A processor's rates, in operations, bytes and seconds; see calibrate.cpp."""

    threads: int
    register_bytes: int
    rate: float  #: multiplications and additions a second, of one thread
    rate_all: float
    gemm: dict[str, float]  #: of torch's matrix products, by mode
    latency: float  #: of a multiply-add
    store_load: float
    bandwidths: dict[int, float]  #: one thread's, over so many bytes
    bandwidths_all: dict[int, float]
    hand_off: float
    calls: dict[str, float]  #: of a call of torch that does next to nothing, by step

    @classmethod
    def of(cls, measured: dict[str, Any]) -> Cpu:
        """From what `calibrate` found.

        Raises:
            KeyError: a constant is missing.
        """
        threads = measured["threads"]
        together = {int(size): rate for size, rate in measured["bandwidth_all"].items()}
        alone = {int(size): rate for size, rate in measured["bandwidth"].items()}
        return cls(
            threads,
            int(measured["register_bytes"]),
            measured["multiply_add_rate"],
            measured["multiply_add_rate_all"],
            measured["gemm"],
            measured["multiply_add_latency"],
            measured["store_load_latency"],
            {size: max(rate, together[size] / threads) for size, rate in alone.items()},
            together,
            measured.get("hand_off", float("inf")),
            measured["call"],
        )

    def operations(self, mode: str) -> float:
        """Half precision may have units of its own, which torch's products would show."""
        return max(self.rate_all, self.gemm.get(mode, 0.0))

    def bandwidth(self, size: float) -> float:
        """All threads share the data."""
        return _rate(self.bandwidths_all, size / self.threads)

    def call(self, step: str) -> float:
        return self.calls[step]

    def step(
        self, batch: int, groups: int, hidden: int, mode: str, activation: str, direction: str
    ) -> float:
        """The least over how many threads share the columns of one product.

        Whoever multiplies must have W_hh, or a share of it, from a cache that holds so much: unless
        it fits in registers. And a state of one step must have been summed up, activated, stored
        and loaded again before the next step can be.
        """
        after_sum = ACTIVATION[activation] if direction == "forward" else DERIVATIVE
        chain = self.store_load + (1 + after_sum) * self.latency
        best = float("inf")
        for sharing in {1, self.threads}:
            teams = self.threads // sharing
            weights = ceil(groups / teams) * hidden**2 * MODES[mode].dtype.itemsize / sharing
            loading = 0.0
            if weights > self.register_bytes:
                loading = weights / _rate(self.bandwidths, weights)
            rows = ceil(batch * groups / teams)
            multiplying = 2 * rows * hidden**2 / sharing * self.threads / self.operations(mode)
            waiting = self.hand_off if sharing > 1 else 0.0
            best = min(best, max(loading, multiplying) + waiting)
        return max(chain, best)


def _rate(rates: dict[int, float], size: float) -> float:
    """The best at any size measured from the largest on that is no larger: no data is faster."""
    first = max((measured for measured in rates if measured <= size), default=min(rates))
    return max(rate for measured, rate in rates.items() if measured >= first)


def calibrate(threads: int) -> dict[str, Any]:
    """All constants, as far as they could be measured, and what went wrong."""
    compiler = shutil.which("c++")
    if compiler is None:
        return {"measured": {}, "errors": ["c++ is not installed"]}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "calibrate")
        status, said = run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], COMPILING)
        if status == 0:
            sizes = [str(size) for size in BANDWIDTH_SIZES]
            status, said = run([str(program), str(threads), *sizes], MEASURING)
    found = constants(said)
    if status != 0:
        what = "it took too long" if status is None else f"status {status}"
        found["errors"].append(f"calibrate.cpp: {what}: {said[-500:]}")
    found["measured"] |= {
        "threads": threads,
        "gemm": {mode: _gemm(mode) for mode in CPU_MODES},
        "call": {step: _call(step) for step in STEPS},
    }
    return found


def better(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Of two calibrations the better of everything: a busy moment is no limit of a machine."""

    def of(name: str, a: Any, b: Any) -> Any:
        if isinstance(a, dict):
            return {kind: of(name, one, b.get(kind, one)) for kind, one in a.items()}
        return min(a, b) if name in LEAST else max(a, b)

    measured = {
        name: of(name, value, second["measured"].get(name, value))
        for name, value in first["measured"].items()
    }
    return {"measured": second["measured"] | measured, "errors": first["errors"]}


def _call(step: str) -> float:
    """Seconds of one operation on one number, as a step of a layer is called."""
    call = stepped(step, torch.neg, [])
    inputs = Inputs(torch.zeros(1, requires_grad=step != "inference"), torch.ones(1))
    best = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(20):
            call(inputs)
        best = min(best, (time.perf_counter() - start) / 20)
    return best


def _gemm(mode: str) -> float:
    """Multiplications and additions a second of the fastest of torch's square matrix products."""
    best = 0.0
    for size in GEMM_SIZES:
        a, b = (torch.rand(size, size).to(MODES[mode].dtype) for _ in range(2))
        a @ b
        seconds: list[float] = []
        while len(seconds) < 2 or (sum(seconds) < 0.1 and len(seconds) < 50):
            start = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - start)
        best = max(best, 2 * size**3 / min(seconds))
        if min(seconds) > 0.1:
            break
    return best


def machine(found: dict[str, Any]) -> Cpu | None:
    """What was calibrated, where it was complete."""
    try:
        return Cpu.of(found["measured"])
    except KeyError:
        return None


def main() -> None:
    found = calibrate(torch.get_num_threads())
    for name, value in found["measured"].items():
        values = value.items() if isinstance(value, dict) else [("", value)]
        for kind, one in values:
            print(f"{f'{name} {kind}':36}{one:12.4g}")
    for error in found["errors"]:
        print(f"ERROR {error}")


if __name__ == "__main__":
    main()
