"""Report which backends this machine can use, the error of the others, and the time of a call."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from . import FusedRNN, use_backend
from ._version import __version__
from .ops.backends import cpu, cuda, dispatch, triton
from .ops.backends._loader import Extension

#: The sizes of the timed layer. Its single input feature makes the input projection almost free.
STEPS, BATCH, HIDDEN = 100, 8, 64


def main() -> int:
    """Print the report; return 0 unless the reference itself fails."""
    print(
        f"fastrnn {__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
        f"{_cpu()}, {torch.get_num_threads()} threads\n"
    )
    failures = {}
    print(f"{'backend':<11}{'one call':>10}   ")
    for status in dispatch.backends().values():
        if status.reason is not None:
            print(f"{status.name:<11}{'-':>10}   unavailable: {status.reason}")
            continue
        try:
            time_taken = f"{1e3 * _time_backend(status.name):.3f} ms"
        except Exception as error:
            failures[status.name] = error
            print(f"{status.name:<11}{'failed':>10}   {type(error).__name__}: {error}")
            continue
        print(f"{status.name:<11}{time_taken:>10}   {status.detail}")
    print(f"{'nn.RNN':<11}{1e3 * _time_nn_rnn():>7.3f} ms   for comparison")
    print(
        f"\nOne call: the median time of a layer's forward pass, T={STEPS} B={BATCH} I=1 "
        f"H={HIDDEN} float32, no gradient."
    )
    if cpu.EXTENSION.unavailable_reason is not None:
        _print_build_help(cpu.EXTENSION, "cpp")
    elif torch.cuda.is_available() and cuda.EXTENSION.unavailable_reason is not None:
        _print_build_help(cuda.EXTENSION, "cuda")
    return 1 if "reference" in failures else 0


def _time_backend(name: str) -> float:
    on_gpu = name == "cuda" or (name == "triton" and not triton.interpreting())
    device = "cuda" if on_gpu else "cpu"
    rnn, x = FusedRNN(1, HIDDEN, device=device), torch.randn(STEPS, BATCH, 1, device=device)

    def call() -> None:
        rnn(x)
        if device == "cuda":
            torch.cuda.synchronize()

    with use_backend(name):
        return _median_time(call)


def _time_nn_rnn() -> float:
    rnn, x = torch.nn.RNN(1, HIDDEN), torch.randn(STEPS, BATCH, 1)
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
