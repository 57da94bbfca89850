"""The constants of the plan's model, measured: `python -m benchmarks.gpu_calibration`.

calibrate.cu measures those that csrc/cuda/plan.cpp assumes, under the same names. Beside them
stands what cuDNN takes for a step where it is hardest to beat: H 128 and 256, whose weights its
kernel keeps in registers. A layer's time at twice the steps less that at once them is the steps'
alone.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .workers import run

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "benchmarks" / "calibrate.cu"
MODEL = ROOT / "csrc" / "cuda" / "plan.cpp"

#: Seconds of the compiler, and of the program.
COMPILING, MEASURING = 60, 20

HIDDEN, MODES, BATCH, STEPS = (128, 256), ("tf32", "bfloat16", "float16"), 16, 1000


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
                found |= read(said)
        if status != 0:
            what = "it took too long" if status is None else f"status {status}"
            found["errors"].append(f"calibrate.cu: {what}: {said[-500:]}")
    me = [sys.executable, "-m", "benchmarks.gpu_calibration"]
    status, said = run(me, _within(MEASURING, deadline))
    found["cudnn_us_a_step"] = read(said)["measured"]
    if status != 0:
        found["errors"].append(f"cuDNN: status {status}: {said[-500:]}")
    return found


def _within(seconds: float, deadline: float) -> float:
    return max(1.0, min(seconds, deadline - time.time()))


def read(said: str) -> dict[str, Any]:
    """What a program said that prints a line of JSON for each constant: what it measured."""
    measured, errors = {}, []
    for line in said.splitlines():
        with suppress(json.JSONDecodeError, KeyError, TypeError):
            entry = json.loads(line)
            if "error" in entry:
                errors.append(f"{entry['name']}: {entry['error']}")
            else:
                measured[entry["name"]] = entry["value"]
    return {"measured": measured, "errors": errors}


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
    """Print cuDNN's times, as calibrate.cu prints its own."""
    import torch
    from torch import nn

    from .gpu_clock import device_ms
    from .modes import precision

    for hidden in HIDDEN:
        for mode_name in MODES:
            with precision(mode_name) as mode:
                layer = nn.RNN(hidden, hidden).to("cuda", mode.dtype)
                shape = 2 * STEPS, BATCH, hidden
                x = torch.empty(shape, dtype=mode.dtype, device="cuda").uniform_(-1, 1)

                def ms(steps: int, layer: nn.Module = layer, x: torch.Tensor = x) -> float:
                    return statistics.median(device_ms(lambda: layer(x[:steps])))

                with torch.inference_mode():
                    value = 1e3 * (ms(2 * STEPS) - ms(STEPS)) / STEPS
            name = f"nn.RNN B={BATCH} H={hidden} {mode_name} inference"
            print(json.dumps({"name": name, "value": value}), flush=True)


if __name__ == "__main__":
    main()
