"""The rates of a GPU, measured for the plan's cost model and for the roofline bounds.

calibrate.cu measures the constants of csrc/cuda/plan.cpp, under the same names. `python -m
benchmarks.roofline.gpu_calibration` measures the others with torch: memory bandwidth, the rates of
matrix products, and cuDNN's time per step at H = 128 and 256, where it keeps the weights in
registers and is hardest to beat. The difference between the times of 2T and T steps is the time of
T steps without the overhead of the call.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..environment import ROOT
from ..process import run
from .calibration import parse

SOURCE = Path(__file__).parent / "calibrate.cu"
MODEL = ROOT / "csrc" / "cuda" / "plan.cpp"

#: Time limits of the compiler and of the program, in seconds.
COMPILE_SECONDS, MEASURE_SECONDS = 60, 20

HIDDEN, CUDNN_MODES, BATCH, STEPS = (128, 256), ("tf32", "bfloat16", "float16"), 16, 1000


def architecture(capability: tuple[int, int]) -> str:
    """An entry of TORCH_CUDA_ARCH_LIST, with architecture-specific features from 9.0 on."""
    major, minor = capability
    return f"{major}.{minor}" + ("a" if major >= 9 else "")


def nvcc() -> str | None:
    """The path of nvcc, from PATH or the default folder of CUDA's installer, or None."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def compile_command(compiler: str, arch: str, program: Path) -> list[str]:
    """The command that compiles calibrate.cu for an `architecture`."""
    number = arch.replace(".", "")
    flags = ["-std=c++20", "-O3", f"-gencode=arch=compute_{number},code=sm_{number}"]
    flags.append(f"-I{ROOT / 'csrc'}")
    return [compiler, *flags, str(SOURCE), "-o", str(program)]


def calibrate(arch: str, deadline: float) -> dict[str, Any]:
    """Make all measurements that the time allows.

    Args:
        arch: an `architecture`.
        deadline: the end of the time, as of `time.time()`.
    """
    found: dict[str, Any] = {
        "meaning": "cycles; bytes per cycle and multiprocessor; clock in cycles per second. "
        "`assumed` has the constants of plan.cpp, which `measured` is meant to replace",
        "assumed": assumed(MODEL.read_text()),
        "measured": {},
        "errors": [],
    }
    compiler = nvcc()
    if compiler is None:
        found["errors"].append("nvcc is not installed")
    else:
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder, "calibrate")
            status, output = run(
                compile_command(compiler, arch, program), _within(COMPILE_SECONDS, deadline)
            )
            if status == 0:
                status, output = run([str(program)], _within(MEASURE_SECONDS, deadline))
                found |= parse(output)
        if status != 0:
            what = "it took too long" if status is None else f"status {status}"
            found["errors"].append(f"calibrate.cu: {what}: {output[-500:]}")
    me = [sys.executable, "-m", "benchmarks.roofline.gpu_calibration"]
    status, output = run(me, _within(MEASURE_SECONDS, deadline))
    by_torch = parse(output)["measured"]
    found["cudnn_us_a_step"] = by_torch.pop("cudnn_us_a_step", {})
    found["measured"] |= by_torch
    if status != 0:
        found["errors"].append(f"by torch: status {status}: {output[-500:]}")
    return found


def _within(seconds: float, deadline: float) -> float:
    return max(1.0, min(seconds, deadline - time.time()))


def assumed(model: str) -> dict[str, float]:
    """The constants of the cost model, from the source of plan.cpp."""
    declarations = re.findall(r"^constexpr double ([^;]+);", model, re.M)
    pairs = re.findall(r"(\w+) = ([0-9.]+)", ", ".join(declarations))
    return {name: float(value) for name, value in pairs}


def table(found: dict[str, Any]) -> str:
    """A line for each constant: the measured value, and the one in plan.cpp."""
    lines = [f"{'calibration':24}{'measured':>12}{'assumed':>12}"]
    for name, value in found["measured"].items():
        values = value if isinstance(value, dict) else {"": value}
        for kind, one in values.items():
            was = found["assumed"].get(name)
            label = f"{name} {kind}".strip()
            lines.append(f"{label:24}{one:12.4g}" + (f"{was:12.4g}" if was is not None else ""))
    for name, value in found.get("cudnn_us_a_step", {}).items():
        lines.append(f"cuDNN {name:36} {value:.3f} us per step")
    return "\n".join([*lines, *(f"ERROR {error}" for error in found["errors"])])


def main() -> None:
    """Print the measurements by torch, in the format of calibrate.cu."""
    for name, measure in (
        ("memory_bandwidth", memory_bandwidth),
        ("rates", rates),
        ("cudnn_us_a_step", cudnn),
    ):
        print(json.dumps({"name": name, "value": measure()}), flush=True)


def memory_bandwidth() -> float:
    """Measure the bytes per second that a copy reads and writes."""
    import torch

    from ..timing import device_times

    source = torch.empty(2**30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * device_times(lambda: target.copy_(source)).best)


def rates() -> dict[str, float]:
    """Measure the FLOPs per second of a large matrix product, by precision."""
    import torch

    from ..precision import MODES, precision
    from ..timing import device_times

    size, found = 8192, {}
    for mode_name in ("bfloat16", "tf32", "float32"):
        with precision(mode_name) as mode:
            a = torch.empty(size, size, dtype=mode.dtype, device="cuda").uniform_(-1, 1)
            seconds = 1e-3 * device_times(lambda a=a: a @ a).best
            found[MODES[mode_name].products] = 2 * size**3 / seconds
    # Strict float32 may use three tf32 products.
    found["float32"] = max(found["float32"], found["tf32"] / 3)
    return found


def cudnn() -> dict[str, float]:
    """Measure the microseconds per step of nn.RNN on cuDNN."""
    import torch
    from torch import nn

    from ..precision import precision
    from ..timing import device_times

    found = {}
    for hidden in HIDDEN:
        for mode_name in CUDNN_MODES:
            with precision(mode_name) as mode:
                layer = nn.RNN(hidden, hidden).to("cuda", mode.dtype)
                shape = 2 * STEPS, BATCH, hidden
                x = torch.empty(shape, dtype=mode.dtype, device="cuda").uniform_(-1, 1)

                def ms(steps: int, layer: nn.Module = layer, x: torch.Tensor = x) -> float:
                    return device_times(lambda: layer(x[:steps])).median

                with torch.inference_mode():
                    value = 1e3 * (ms(2 * STEPS) - ms(STEPS)) / STEPS
            found[f"nn.RNN B={BATCH} H={hidden} {mode_name} inference"] = value
    return found


if __name__ == "__main__":
    main()
