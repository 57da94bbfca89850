"""The peak rates of a CPU: `python -m benchmarks.roofline.cpu` measures and prints them.

calibrate.cpp measures the processor; the rates of matrix products are those of torch.
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

from ..precision import MODES
from ..process import run
from ..shapes import STEPS, Shape
from ..workload import Inputs, make_call
from .calibration import parse

SOURCE = Path(__file__).parent / "calibrate.cpp"
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-pthread")

#: Constants for which a smaller value is better.
LOWER_IS_BETTER = ("multiply_add_latency", "store_load_latency", "hand_off", "call")

#: Time limits of the compiler and of the program, in seconds.
COMPILE_SECONDS, MEASURE_SECONDS = 60, 60

#: Sizes of square matrices whose product may reach the peak rate.
GEMM_SIZES = (512, 1024, 1536, 2048)
CPU_MODES = ("float32", "bfloat16", "float16")

#: Working sets from smaller than L1 to larger than L3, in bytes.
BANDWIDTH_SIZES = [2**power for power in range(13, 29)]

#: The fewest dependent operations of an activation. relu takes one. tanh takes two for the range
#: reduction, three for a polynomial of degree 7 by Estrin's scheme, one for the scaling, and a
#: division with the latency of four. A sigmoid takes the same.
ACTIVATION_OPS = {"tanh": 10, "relu": 1}

#: The fewest dependent operations from the sums of a step to h, of a cell with gates. Both have two
#: activations in a row and two more operations: i g + (f c) and o tanh(c) of an LSTM, and
#: pre_n + r q and (1 - z) n + (z h) of a GRU.
GATED_OPS = 2 * ACTIVATION_OPS["tanh"] + 2

#: The fewest in a step of the backward pass: (grad + sum) times the derivative. With gates the
#: derivative is a product of factors that do not depend on the sum.
DERIVATIVE_OPS = 2


@dataclass(frozen=True)
class Cpu:
    """The peak rates of a CPU, in FLOPs, bytes and seconds, as calibrate.cpp measures them."""

    threads: int
    register_bytes: int
    flops_per_thread: float  #: per second
    flops_total: float  #: per second, of all threads
    gemm: dict[str, float]  #: FLOPs per second of torch's matrix products, by mode
    fma_latency: float  #: of a fused multiply-add
    store_load_latency: float
    bandwidth_per_thread: dict[int, float]  #: by the bytes of the working set
    bandwidth_total: dict[int, float]
    hand_off: float  #: from one thread to another
    call_overheads: dict[str, float]  #: of a call of torch that computes next to nothing, by pass

    @classmethod
    def from_calibration(cls, measured: dict[str, Any]) -> Cpu:
        """Make it of the constants that `calibrate` measured.

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

    def peak_flops(self, mode: str) -> float:
        """FLOPs per second; torch's rate counts too, as half precision may have its own units."""
        return max(self.flops_total, self.gemm.get(mode, 0.0))

    def bandwidth(self, size: float) -> float:
        """Bytes per second, if each thread works on an equal share of the data."""
        return _rate(self.bandwidth_total, size / self.threads)

    def call_overhead(self, step: str) -> float:
        return self.call_overheads[step]

    def step_time(self, shape: Shape, mode: str, direction: str) -> float:
        """Seconds of the shortest step: the minimum over the number of threads for each product.

        A thread loads its share of W_hh from a cache in every step, unless the share fits in
        registers. The state must be accumulated, activated, stored and loaded again before the next
        step can use it.
        """
        chain = self.store_load_latency + (1 + _ops_after_sum(shape, direction)) * self.fma_latency
        groups, size = shape.directions * shape.groups, shape.of_cell.gates * shape.H**2
        best = float("inf")
        for sharing in {1, self.threads}:
            teams = self.threads // sharing
            weights = ceil(groups / teams) * size * MODES[mode].dtype.itemsize / sharing
            loading = 0.0
            if weights > self.register_bytes:
                loading = weights / _rate(self.bandwidth_per_thread, weights)
            rows = ceil(shape.B * groups / teams)
            multiplying = 2 * rows * size / sharing * self.threads / self.peak_flops(mode)
            waiting = self.hand_off if sharing > 1 else 0.0
            best = min(best, max(loading, multiplying) + waiting)
        return max(chain, best)


def _ops_after_sum(shape: Shape, direction: str) -> int:
    """Count the dependent operations of a step after its sums."""
    if direction == "backward":
        return DERIVATIVE_OPS
    return ACTIVATION_OPS[shape.activation] if shape.cell == "rnn" else GATED_OPS


def _rate(rates: dict[int, float], size: float) -> float:
    """The highest rate measured at the next smaller size or at any larger one.

    More data is never faster. A higher rate at a larger size shows that the machine was busy while
    the smaller size was measured.
    """
    first = max((measured for measured in rates if measured <= size), default=min(rates))
    return max(rate for measured, rate in rates.items() if measured >= first)


def calibrate(threads: int) -> dict[str, Any]:
    """Measure all constants, and return them with the errors of those that failed."""
    compiler = shutil.which("c++")
    if compiler is None:
        return {"measured": {}, "errors": ["c++ is not installed"]}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "calibrate")
        status, output = run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], COMPILE_SECONDS)
        if status == 0:
            sizes = [str(size) for size in BANDWIDTH_SIZES]
            status, output = run([str(program), str(threads), *sizes], MEASURE_SECONDS)
    found = parse(output)
    if status != 0:
        what = "it took too long" if status is None else f"status {status}"
        found["errors"].append(f"calibrate.cpp: {what}: {output[-500:]}")
    found["measured"] |= {
        "threads": threads,
        "gemm": {mode: _gemm_rate(mode) for mode in CPU_MODES},
        "call": {step: _call_overhead(step) for step in STEPS},
    }
    return found


def best_of(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Combine two calibrations: the better value of each constant. The other shows load."""

    def best(name: str, a: Any, b: Any) -> Any:
        if isinstance(a, dict):
            return {kind: best(name, one, b.get(kind, one)) for kind, one in a.items()}
        return min(a, b) if name in LOWER_IS_BETTER else max(a, b)

    measured = {
        name: best(name, value, second["measured"].get(name, value))
        for name, value in first["measured"].items()
    }
    return {"measured": second["measured"] | measured, "errors": first["errors"]}


def _call_overhead(step: str) -> float:
    """Measure the seconds of an operation on one number, called in the way of a layer."""
    call = make_call(step, torch.neg, [])
    inputs = Inputs(torch.zeros(1, requires_grad=step != "inference"), torch.ones(1))
    best = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(20):
            call(inputs)
        best = min(best, (time.perf_counter() - start) / 20)
    return best


def _gemm_rate(mode: str) -> float:
    """Measure the FLOPs per second of the fastest of torch's square matrix products."""
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
    """Return the rates of a calibration, or None if it is incomplete."""
    try:
        return Cpu.from_calibration(found["measured"])
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
