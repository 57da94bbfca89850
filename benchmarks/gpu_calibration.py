"""What a GPU can do at most, measured, for the plan's model and the floors.

calibrate.cu measures what csrc/cuda/plan.cpp assumes, under the same names. `python -m
benchmarks.gpu_calibration` measures the rest by torch: the memory's bandwidth, the rates of matrix
products, and what cuDNN takes for a step where it is hardest to beat, at H 128 and 256, whose
weights its kernel keeps in registers. A layer's time at twice the steps less that at once them is
the steps' alone.
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

from .jsonl import constants
from .process import run

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "benchmarks" / "calibrate.cu"
MODEL = ROOT / "csrc" / "cuda" / "plan.cpp"

#: Seconds of the compiler, and of the program.
COMPILING, MEASURING = 60, 20

HIDDEN, CUDNN_MODES, BATCH, STEPS = (128, 256), ("tf32", "bfloat16", "float16"), 16, 1000


def architecture(capability: tuple[int, int]) -> str:
    """As TORCH_CUDA_ARCH_LIST wants it: with what that GPU alone has."""
    major, minor = capability
    return f"{major}.{minor}" + ("a" if major >= 9 else "")


def nvcc() -> str | None:
    """The compiler, on the path or where CUDA's installer puts it."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def compiling(compiler: str, arch: str, program: Path) -> list[str]:
    """The command that compiles calibrate.cu, for an `architecture`."""
    number = arch.replace(".", "")
    flags = ["-std=c++20", "-O3", f"-gencode=arch=compute_{number},code=sm_{number}"]
    return [compiler, *flags, str(SOURCE), "-o", str(program)]


def calibration(arch: str, deadline: float) -> dict[str, Any]:
    """Everything, as far as time allows."""
    found: dict[str, Any] = {
        "meaning": "cycles, bytes a cycle and multiprocessor, and clock in cycles a second; "
        "`measured` is to replace what plan.cpp has under these names, `assumed`",
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
            status, said = run(compiling(compiler, arch, program), _within(COMPILING, deadline))
            if status == 0:
                status, said = run([str(program)], _within(MEASURING, deadline))
                found |= constants(said)
        if status != 0:
            what = "it took too long" if status is None else f"status {status}"
            found["errors"].append(f"calibrate.cu: {what}: {said[-500:]}")
    me = [sys.executable, "-m", "benchmarks.gpu_calibration"]
    status, said = run(me, _within(MEASURING, deadline))
    by_torch = constants(said)["measured"]
    found["cudnn_us_a_step"] = by_torch.pop("cudnn_us_a_step", {})
    found["measured"] |= by_torch
    if status != 0:
        found["errors"].append(f"by torch: status {status}: {said[-500:]}")
    return found


def _within(seconds: float, deadline: float) -> float:
    return max(1.0, min(seconds, deadline - time.time()))


def assumed(model: str) -> dict[str, float]:
    """The model's constants, from the text of plan.cpp."""
    declarations = re.findall(r"^constexpr double ([^;]+);", model, re.M)
    pairs = re.findall(r"(\w+) = ([0-9.]+)", ", ".join(declarations))
    return {name: float(value) for name, value in pairs}


def table(found: dict[str, Any]) -> str:
    """A line for every constant: what was measured, and what plan.cpp has."""
    lines = [f"{'calibration':24}{'measured':>12}{'assumed':>12}"]
    for name, value in found["measured"].items():
        values = value if isinstance(value, dict) else {"": value}
        for kind, one in values.items():
            was = found["assumed"].get(name)
            label = f"{name} {kind}".strip()
            lines.append(f"{label:24}{one:12.4g}" + (f"{was:12.4g}" if was is not None else ""))
    for name, value in found.get("cudnn_us_a_step", {}).items():
        lines.append(f"cuDNN {name:36} {value:.3f} us a step")
    return "\n".join([*lines, *(f"ERROR {error}" for error in found["errors"])])


def main() -> None:
    """Print what torch measures, as calibrate.cu prints its own."""
    for name, measure in (
        ("memory_bandwidth", memory_bandwidth),
        ("rates", rates),
        ("cudnn_us_a_step", cudnn),
    ):
        print(json.dumps({"name": name, "value": measure()}), flush=True)


def memory_bandwidth() -> float:
    """Bytes a second of a copy, what is read and what is written."""
    import torch

    from .clock import device_times

    source = torch.empty(2**30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * device_times(lambda: target.copy_(source)).best)


def rates() -> dict[str, float]:
    """Multiplications and additions a second of a large matrix product, by how it is computed."""
    import torch

    from .clock import device_times
    from .modes import MODES, precision

    size, found = 8192, {}
    for mode_name in ("bfloat16", "tf32", "float32"):
        with precision(mode_name) as mode:
            a = torch.empty(size, size, dtype=mode.dtype, device="cuda").uniform_(-1, 1)
            seconds = 1e-3 * device_times(lambda a=a: a @ a).best
            found[MODES[mode_name].products] = 2 * size**3 / seconds
    # Strict float32 may be three tf32 products.
    found["float32"] = max(found["float32"], found["tf32"] / 3)
    return found


def cudnn() -> dict[str, float]:
    """Microseconds a step of nn.RNN."""
    import torch
    from torch import nn

    from .clock import device_times
    from .modes import precision

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
