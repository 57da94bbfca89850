"""The proof of the GPU kernels: `make gpu-check`, on a machine with an NVIDIA GPU.

In this order: what machine this is, the build of both extensions, the constants of the plan's
model, every test of tests/gpu, compute-sanitizer where there is one, and times beside nn.RNN on
cuDNN. Each part has its share of the time, and what it could not reach it names; `--seconds` says
how much there is. Without the CUDA kernels Triton's are checked all the same. What was found goes
into two files, one of the check and one of the times, in the folder that the variable OUT names or
else in benchmarks/results/.

It exits with 0 if both were built, every test was run and nothing was wrong; 1 otherwise; 2 if
there is no GPU.
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

#: Seconds for all of it, unless others are asked for, and at most for its parts; timing has what
#: they leave.
TOTAL = 525
BUILD, CALIBRATION, CORRECTNESS, SANITIZER = 110, 35, 190, 60

#: The part of timing's share in which it may compile, in as many processes as there are.
COMPILING = 0.3

#: Processes at once where the CPU compiles and the GPU has little to do.
PROCESSES = max(1, min(12, (os.cpu_count() or 1) - 2))

#: How the tests are run. A captured stderr would be lost with the process, and with it what C++
#: says before it aborts.
PYTEST = ("-q", "--tb=short", "--capture=sys")

#: What compute-sanitizer looks for, in the kernels of each backend; all at once. The poison of the
#: tests sees what initcheck would.
TOOLS = tuple((tool, backend) for tool in ("memcheck", "racecheck") for backend in BACKENDS)
TOOLS += (("synccheck", "cuda"),)


def no_gpu() -> str | None:
    """Why nothing can be checked here, or None."""
    try:
        import torch
    except ImportError as error:
        return str(error)
    if torch.version.hip is not None:
        return "torch is built for AMD GPUs"
    if not torch.cuda.is_available():
        return "torch sees none"
    return None


def build(arch: str, deadline: float) -> dict[str, Any]:
    """Both extensions, for this GPU alone; the one of C++ also makes the plan of the other."""
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
    """Every test of tests/gpu, shared out over processes."""
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
    """compute-sanitizer's tools on a few small cases of every kernel, all at once."""
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
        # torch asks CUDA what it may, and takes no for an answer.
        command += ["--report-api-errors", "no"]
    command += [sys.executable, "-m", "tools.gpu_validation", "--small", backend]
    # Each tensor its own allocation, so that what lies beside it is seen to be another's.
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
    """The plan of timing.py, as far as time allows."""
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
    """What a part found, or why it failed, and how long that took."""
    start = time.time()
    try:
        found = part(*arguments)
    except Exception:
        found = {"error": traceback.format_exc()[-3000:]}
    return {**found, "seconds": round(time.time() - start, 1)}


def check(seconds: float) -> int:
    """All parts, each entered in the record as soon as it is done."""
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
    """Add the roofline bounds of this GPU to the rows; return its clock rate."""
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
    """File the times as every benchmark's are, beside the record of the check."""
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
    """What a person wants to know first, last."""
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
    print("nothing was wrong with", ", ".join(results.verified_kernels(record)) or "no kernel")
    environment = record["environment"]
    keys = [key for key in ("gpu", "driver", "torch", "commit") if key in environment]
    print(", ".join(f"{key} {environment[key]}" for key in keys))
    print("everything passed" if record["status"] == results.OK else "NOT everything passed")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_validation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--small", choices=BACKENDS, help="only a few calls of every kernel of one")
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=TOTAL,
        help="for all of it (default: %(default)s); with few of them less is timed and tested",
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
    return check(arguments.seconds)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("the seconds must be a positive number")
    return value
