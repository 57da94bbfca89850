"""Report which backends this machine can use, the error of the others, and the times of calls."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from . import FusedGRU, FusedLSTM, FusedRNN, use_backend
from ._version import __version__
from .ops.backends import cpu, cuda, dispatch, triton
from .ops.backends._loader import Extension
from .ops.backends.base import Call

#: The sizes of the timed layers. Their single input feature makes the input projection almost free.
STEPS, BATCH, HIDDEN = 100, 8, 64

#: The timed layers, with their modes.
LAYERS = {"RNN": "RNN_TANH", "LSTM": "LSTM", "GRU": "GRU"}
_OURS = {"RNN": FusedRNN, "LSTM": FusedLSTM, "GRU": FusedGRU}


def main() -> int:
    """Print the report; return 0 unless the reference itself fails."""
    print(
        f"fastrnn {__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
        f"{_cpu()}, {torch.get_num_threads()} threads\n"
    )
    failed = False
    print(f"{'one call':<11}" + "".join(f"{kind:>12}" for kind in LAYERS))
    for status in dispatch.backends().values():
        if status.reason is not None:
            cells, detail = ["-"] * len(LAYERS), f"unavailable: {status.reason}"
        else:
            cells, error = _times_of_backend(status.name)
            detail = status.detail if error is None else f"{type(error).__name__}: {error}"
            failed |= error is not None and status.name == "reference"
        print(_row(status.name, cells, detail))
    theirs = [_shown(_time_torch(kind)) for kind in LAYERS]
    print(_row("torch.nn", theirs, "nn.RNN, nn.LSTM and nn.GRU, for comparison"))
    print(
        f"\nOne call: the median time of a layer's forward pass, T={STEPS} B={BATCH} I=1 "
        f"H={HIDDEN} float32, no gradient. A backend without a time has no kernels for the layer."
    )
    if cpu.EXTENSION.unavailable_reason is not None:
        _print_build_help(cpu.EXTENSION, "cpp")
    elif torch.cuda.is_available() and cuda.EXTENSION.unavailable_reason is not None:
        _print_build_help(cuda.EXTENSION, "cuda")
    return 1 if failed else 0


def _row(name: str, cells: list[str], detail: str) -> str:
    return f"{name:<11}" + "".join(f"{cell:>12}" for cell in cells) + f"   {detail}"


def _shown(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _times_of_backend(name: str) -> tuple[list[str], Exception | None]:
    """Return the time of each layer as text, "-" for those not supported, and the last error."""
    cells, last = [], None
    for kind, mode in LAYERS.items():
        device = torch.device(_device(name))
        call = Call(mode, STEPS, BATCH, 1, HIDDEN, torch.float32, device, False, None)
        if dispatch.BACKENDS[name].unsupported_reason(call) is not None:
            cells.append("-")
            continue
        try:
            cells.append(_shown(_time_backend(name, kind)))
        except Exception as error:
            cells.append("failed")
            last = error
    return cells, last


def _device(backend: str) -> str:
    on_gpu = backend == "cuda" or (backend == "triton" and not triton.interpreting())
    return "cuda" if on_gpu else "cpu"


def _time_backend(name: str, kind: str) -> float:
    device = _device(name)
    rnn, x = _OURS[kind](1, HIDDEN, device=device), torch.randn(STEPS, BATCH, 1, device=device)

    def call() -> None:
        rnn(x)
        if device == "cuda":
            torch.cuda.synchronize()

    with use_backend(name):
        return _median_time(call)


def _time_torch(kind: str) -> float:
    rnn, x = getattr(torch.nn, kind)(1, HIDDEN), torch.randn(STEPS, BATCH, 1)
    return _median_time(lambda: rnn(x))


def _median_time(call: Callable[[], object], limit: float = 0.5) -> float:
    """Return the median time of at most 50 calls in seconds; stop early after `limit` seconds."""
    times: list[float] = []
    with torch.no_grad():
        call()
        while len(times) < 3 or (len(times) < 50 and sum(times) < limit):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return median(times)


def _print_build_help(extension: Extension, mode: str) -> None:
    if extension.error.exists():
        lines = extension.error.read_text(errors="replace").splitlines()
        print(f"\nLast lines of the build of {extension.name} (full log: {extension.error}):")
        print(*("  | " + line for line in lines[-20:]), sep="\n")
    needed = "a C++20 compiler" if mode == "cpp" else "nvcc, a C++20 compiler"
    print(
        f"\nTo build it, install torch, {needed} and Python's headers, and run in the source "
        "of fastrnn\n"
        f"  FASTRNN_BUILD={mode} pip install --force-reinstall --no-deps --no-build-isolation .\n"
        "or, to build it in place,\n"
        f"  FASTRNN_BUILD={mode} python setup.py build_ext --inplace"
    )


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
