"""Validate the GPU kernels on a machine with an NVIDIA GPU: `make gpu-check`.

The parts run in this order: describe the machine, build both extensions, measure the constants of
the plan's cost model, run every test in tests/gpu, run compute-sanitizer if it is installed, and
time the kernels against nn.RNN on cuDNN. Each part has a time limit, and lists what it could not
reach. `--seconds` limits the total. Without the CUDA kernels the Triton kernels are still
validated. The results and the times are written to two files, in the folder named by the variable
OUT, or else in benchmarks/results/.

The exit status is 0 if both extensions were built, every test ran and no part found an error, 2 if
there is no GPU, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.environment import ROOT
from benchmarks.jsonl import read
from benchmarks.process import run
from benchmarks.roofline import gpu_calibration

from . import results, tables
from .results import BACKENDS
from .workers import Worker, excerpt, supervise

#: Seconds in total, by default, and the limits of the parts; the timing takes the remaining time.
TOTAL = 525
BUILD, CALIBRATION, CORRECTNESS, SANITIZER = 120, 35, 190, 60

#: The fraction of the timing's time in which several processes compile.
COMPILING = 0.3

#: Parallel processes where the CPU compiles while the GPU is mostly idle.
PROCESSES = max(1, min(12, (os.cpu_count() or 1) - 2))

#: Options of the tests. They do not capture the file descriptor of stderr, because the message of
#: an aborting process would be lost.
PYTEST = ("-q", "--tb=short", "--capture=sys")

#: compute-sanitizer's tools and the backends they run on, all in parallel. initcheck is not needed,
#: because the tests fill uninitialised memory with NaN.
TOOLS = tuple((tool, backend) for tool in ("memcheck", "racecheck") for backend in BACKENDS)
TOOLS += (("synccheck", "cuda"),)


def no_gpu() -> str | None:
    """Why the kernels cannot be validated here, or None."""
    try:
        import torch
    except ImportError as error:
        return str(error)
    if torch.version.hip is not None:
        return "torch is built for AMD GPUs"
    if not torch.cuda.is_available():
        return "torch finds none"
    return None


def build(arch: str, deadline: float) -> dict[str, Any]:
    """Build both extensions for this GPU only; the C++ extension also plans the CUDA kernels."""
    found = {"archs": arch}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    variables = {
        "FASTRNN_BUILD": "cuda",
        "TORCH_CUDA_ARCH_LIST": arch,
        "MAX_JOBS": str(os.cpu_count() or 1),
    }
    seconds = max(1.0, min(BUILD, deadline - time.time()))
    status, said = run(command, seconds, variables)
    if status is None:
        reason = f"it took more than {seconds:.0f} s"
        return {**found, "outcome": "not finished", "reason": reason, "said": excerpt(said)}
    explained = sorted((ROOT / "fastrnn").glob("*_build_error.txt"))
    if status != 0 or explained:
        reasons = [path.read_text().partition("\n")[0] for path in explained]
        reason = "; ".join(reasons) or f"status {status}"
        return {**found, "outcome": "failed", "reason": reason, "said": excerpt(said)}
    return {**found, "outcome": "built"}


def correctness(deadline: float) -> dict[str, Any]:
    """Run every test of tests/gpu, split between processes."""
    deadline = min(deadline, time.time() + CORRECTNESS)
    with tempfile.TemporaryDirectory() as folder:
        pytest = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", *PYTEST]
        pytest += ["-p", "no:cacheprovider", "-p", "tests.gpu.outcomes"]
        workers = []
        for i in range(PROCESSES):
            journal = Path(folder, f"{i}.jsonl")
            shard = ["--shard", f"{i}/{PROCESSES}", "--journal", str(journal)]
            workers.append(Worker((*pytest, *shard), journal))
        supervise(workers, deadline, {"OMP_NUM_THREADS": "1"})
        return results.correctness([read(worker.journal) for worker in workers])


def sanitizer(deadline: float) -> dict[str, Any]:
    """Run the tools of compute-sanitizer in parallel, on a few small calls of every kernel."""
    deadline = min(deadline, time.time() + SANITIZER)
    with ThreadPoolExecutor() as pool:
        found = [pool.submit(attempt, sanitize, *tool, deadline) for tool in TOOLS]
        names = [f"{tool} {backend}" for tool, backend in TOOLS]
        return {name: one.result() for name, one in zip(names, found, strict=True)}


def sanitize(tool: str, backend: str, deadline: float) -> dict[str, Any]:
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.access(program, os.X_OK):
        return {"outcome": "could not run", "reason": "compute-sanitizer is not installed"}
    command = [program, "--tool", tool, "--error-exitcode", "99"]
    if tool == "memcheck":
        # torch probes CUDA with calls that may fail.
        command += ["--report-api-errors", "no"]
    command += [sys.executable, "-m", "tools.gpu_validation", "--small", backend]
    # Each tensor has its own allocation, so that accesses out of bounds are detected.
    allocation = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    status, said = run(command, max(1.0, deadline - time.time()), allocation)
    cases = re.findall(r"^small: (.*)$", said, re.MULTILINE)
    found = {"cases": len(cases), "said": excerpt(said)}
    if status == 99:
        return {"outcome": "found", **found}
    if status is None:
        return {"outcome": "not finished", **found}
    return {"outcome": "clean" if status == 0 else "could not run", **found}


def timing(deadline: float) -> dict[str, Any]:
    """Measure as many units of the plan of timing.py as the time allows."""
    from .timing import plan

    me = [sys.executable, "-m", "tools.gpu_validation.timing"]
    with tempfile.TemporaryDirectory() as folder:
        compiling = time.time() + COMPILING * (deadline - time.time())
        supervise(
            [
                Worker(
                    (*me, "--compile", f"{i}/{PROCESSES}", "--deadline", str(compiling)),
                    Path(folder, f"{i}.jsonl"),
                )
                for i in range(PROCESSES)
            ],
            compiling,
        )
        worker = Worker(
            (*me, "--journal", f"{folder}/timing.jsonl", "--deadline", str(deadline - 10)),
            Path(folder, "timing.jsonl"),
        )
        supervise([worker], deadline)
        entries = read(worker.journal)
    return results.timing(entries, list(plan()))


def attempt(part: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a part; return its results, or its traceback, and the seconds it took."""
    start = time.time()
    try:
        found = part(*arguments)
    except Exception:
        found = {"error": traceback.format_exc()[-3000:]}
    return {**found, "seconds": round(time.time() - start, 1)}


def validate(seconds: float) -> int:
    """Run all parts, write the record after each of them, and return the exit status."""
    start = time.time()
    deadline = start + seconds
    record: dict[str, Any] = {"format": 3, "environment": attempt(environment.describe, "cuda")}
    folder = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    path = environment.path(folder, record["environment"], "check")

    def enter(name: str, found: dict[str, Any]) -> None:
        record[name] = found
        record["status"] = results.status(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: {time.time() - start:.0f} s", flush=True)

    enter("environment", record["environment"])
    arch = gpu_calibration.architecture(record["environment"].get("capability", (9, 0)))
    enter("build", attempt(build, arch, deadline))
    calibrating = min(deadline, time.time() + CALIBRATION)
    enter("calibration", attempt(gpu_calibration.calibrate, arch, calibrating))
    enter("correctness", attempt(correctness, deadline))
    enter("sanitizer", sanitizer(deadline))
    timed = attempt(timing, deadline)
    rows = timed.pop("rows", [])
    enter("timing", timed)
    clock = None
    if rows:
        clock = add_bounds(rows, record)
        print(write_times(rows, record, folder))
    print_summary(record, rows, clock)
    print(f"\n{path}")
    return record["status"]


def add_bounds(rows: list[dict[str, Any]], record: dict[str, Any]) -> float | None:
    """Add the lower bounds of this GPU to the rows, and return its clock rate."""
    from benchmarks.report import records
    from benchmarks.roofline import gpu

    rates = gpu.machine(record["environment"]["gpu"])
    if rates is None:
        return None
    rates = rates.calibrated(record["calibration"].get("measured", {}))
    for row in rows:
        row["floor"] = records.bounds(records.case(row), rates)
    return rates.clock


def write_times(rows: list[dict[str, Any]], record: dict[str, Any], folder: Path) -> Path:
    """Write the times as a record of benchmarks, in the folder of the validation's record."""
    from benchmarks.report import records

    from .timing import BUDGET

    times = {
        "format": records.FORMAT,
        "machine": record["environment"],
        "selection": {
            "shapes": "gpu",
            "peers": "few",
            "budget_s": BUDGET,
            "complete": not record["timing"].get("not reached", True),
        },
        "absent": {},
        "calibration": record["calibration"],
        "rows": rows,
    }
    return records.write(times, folder)


def print_summary(record: dict[str, Any], rows: list[dict[str, Any]], clock: float | None) -> None:
    """Print the tables, with the most important lines last."""
    timed = {**record["timing"], "rows": rows}
    for part, table in (
        ("timing", lambda _: tables.timing_table(timed)),
        ("timing", lambda _: tables.fastest_table(timed, clock)),
        ("calibration", gpu_calibration.table),
        ("correctness", tables.correctness_table),
    ):
        found = record[part]
        print("\n" + (f"{part}: {found['error']}" if "error" in found else table(found)))
    for name, found in (("build", record["build"]), *record["sanitizer"].items()):
        outcome = found.get("outcome", found.get("error"))
        print(f"{name}: {outcome} {found.get('reason', '')} ({found.get('seconds')} s)")
    print("kernels without a finding:", ", ".join(results.verified_kernels(record)) or "no kernel")
    machine = record["environment"]
    keys = [key for key in ("gpu", "driver", "torch", "commit") if key in machine]
    print(", ".join(f"{key} {machine[key]}" for key in keys))
    print("all passed" if record["status"] == results.OK else "NOT all passed")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_validation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--small", choices=BACKENDS, help="run only the small calls of a backend")
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=TOTAL,
        help="the time limit in total (default: %(default)s); a low limit skips times and tests",
    )
    arguments = parser.parse_args(argv)
    if arguments.small is not None:
        from .small_calls import small

        small(arguments.small)
        return results.OK
    reason = no_gpu()
    if reason is not None:
        print(f"gpu-check needs a CUDA GPU: {reason}", file=sys.stderr)
        return results.NO_GPU
    os.chdir(ROOT)
    return validate(arguments.seconds)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return value
