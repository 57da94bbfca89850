"""Describe the machine, the versions and the code that a measurement depends on."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from .process import run

ROOT = Path(__file__).resolve().parent.parent

#: Packages whose versions affect a measurement.
PACKAGES = ("torch", "triton", "onnxruntime", "openvino", "jax", "flashrnn", "numpy")


def describe(device: str) -> dict[str, Any]:
    """Describe the machine, the versions of packages, the settings, and the code."""
    import torch

    return {
        **(gpu() if device == "cuda" else cpu()),
        "python": platform.python_version(),
        **_versions(),
        "threads": torch.get_num_threads(),
        **source(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
    }


def _versions() -> dict[str, Any]:
    """Return the versions; None for missing packages, so that all records have the same keys."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def gpu() -> dict[str, Any]:
    """Describe the GPU, its clocks, and the precision of float32."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": "cuda",
        "gpu": properties.name,
        "capability": [properties.major, properties.minor],
        "processors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "driver": _nvidia("driver_version"),
        "clock": _nvidia("clocks.sm"),
        "max_clock": _nvidia("clocks.max.sm"),
        "power_limit": _nvidia("power.limit"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "fp32_precision": "of torch.backends.cudnn.rnn and of matrix products, for all providers: "
        "tf32 in the mode tf32, else ieee",
    }


def _nvidia(query: str) -> str:
    return output_of("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")


def cpu() -> dict[str, Any]:
    """Describe the processor, its caches and clock, and the instruction set of our kernels."""
    from fastrnn.ops.backends import cpu

    extension = cpu.EXTENSION.unavailable_reason or cpu.EXTENSION.info["instruction_set"]
    fields = _cpuinfo()
    return {
        "device": "cpu",
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cpu_family": [fields.get(key) for key in ("cpu family", "model", "stepping")],
        "cores": fields.get("cpu cores"),
        "caches": dict(_caches()),
        "clock": fields.get("cpu MHz"),
        "instruction_set": extension,
    }


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    text = path.read_text().partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> list[tuple[str, str]]:
    """Return the level and size of each cache of the first processor, such as ("L1", "32K")."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = (
            (index / name).read_text().strip() for name in ("type", "level", "size")
        )
        if kind != "Instruction":
            found.append((f"L{level}", size))
    return found


def name(description: dict[str, Any]) -> str:
    """Return the name of the machine's folder of records.

    The name of a CPU includes the instruction set of our kernels and the threads.
    """
    if description.get("device") != "cpu":
        parts = [description.get("gpu", "unknown")]
    else:
        set_ = description["instruction_set"]
        known = set_ if re.fullmatch(r"[a-z0-9]+", set_) else "no-kernels"
        parts = [description["cpu"], known, f"{description['threads']}-threads"]
    words = " ".join(parts).lower()
    words = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*ghz", " ", words)
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def path(results: Path, description: dict[str, Any], kind: str) -> Path:
    """Return the path of a record: in the folder of its machine, by date, commit and kind."""
    date = str(description.get("date", "unknown")).removesuffix("+00:00")
    stamp = f"{date}-{description.get('commit', 'unknown')}-{kind}"
    stamp = re.sub(r"[^a-z0-9]+", "-", stamp.lower())
    return results / name(description) / f"{stamp}.json"


def source() -> dict[str, Any]:
    """Return the commit, from FASTRNN_COMMIT or git, and digests of the sources of the kernels."""
    digests = {
        "cpu_kernels_sha256": _digest("csrc/*.h", "csrc/cpu/*"),
        "kernels_sha256": _digest("fastrnn/ops/backends/triton/*.py"),
        "cuda_kernels_sha256": _digest(
            "csrc/*.h", "csrc/cuda/**/*", "fastrnn/ops/backends/cuda.py"
        ),
    }
    if commit := os.environ.get("FASTRNN_COMMIT"):
        return {"commit": commit, "dirty": None, **digests}
    commit = output_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changes = output_of("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    dirty = None if "unknown" in (commit, changes) else bool(changes)
    return {"commit": commit, "dirty": dirty, **digests}


def _digest(*patterns: str) -> str:
    digest = hashlib.sha256()
    found = (path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())
    for path in sorted(found):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def output_of(*command: str) -> str:
    """Return the output of a command, or "unknown" if it fails."""
    if shutil.which(command[0]) is None:
        return "unknown"
    status, text = run(command, 20)
    return text.strip() if status == 0 else "unknown"
