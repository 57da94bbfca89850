"""Peak memory: the most that a call allocates beyond the memory allocated before it."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from .process import run

SOURCE = Path(__file__).parent / "malloc_hook.cpp"
FLAGS = ("-std=c++20", "-O2", "-shared", "-fPIC")

#: Time limit of the compiler, in seconds.
COMPILE_SECONDS = 60

MIB = 2**20


def unavailable_reason(device: str) -> str | None:
    """Return why peak memory cannot be measured here on a type of device, or None."""
    if device == "cpu" and shutil.which("c++") is None:
        return "needs a compiler, and c++ is not installed"
    return None


class Process:
    """A process with malloc_hook.cpp preloaded, which counts the bytes that malloc allocates.

    Args:
        threads: for torch.set_num_threads in the process.

    Raises:
        RuntimeError: malloc_hook.cpp does not compile or does not work here; it needs glibc.
    """

    def __init__(self, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        library = Path(self._folder.name, "malloc_hook.so")
        status, output = run(["c++", *FLAGS, str(SOURCE), "-o", str(library)], COMPILE_SECONDS)
        if status != 0:
            raise RuntimeError(f"{SOURCE.name} does not compile: {output[-1000:]}")
        self._executor = ProcessPoolExecutor(1, get_context("spawn"))
        preloaded = os.environ.get("LD_PRELOAD")
        os.environ["LD_PRELOAD"] = " ".join(filter(None, (str(library), preloaded)))
        try:  # the first submission starts the process
            self._executor.submit(_start, threads).result()
        finally:
            del os.environ["LD_PRELOAD"]
            if preloaded is not None:
                os.environ["LD_PRELOAD"] = preloaded

    def call(self, function: Callable, *arguments: object) -> object:
        """Call a module-level function in the process, and return its result."""
        return self._executor.submit(function, *arguments).result()

    def close(self) -> None:
        self._executor.shutdown()
        self._folder.cleanup()


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    if peak_mib(lambda: torch.empty(MIB), "cpu") < 4:
        raise RuntimeError(f"{SOURCE.name} does not count what torch allocates")


def peak_mib(call: Callable[[], object], device: str) -> float:
    """Return the peak memory of a call in MiB, including its results.

    On a GPU it is the peak of torch's allocator, which cuDNN's workspace comes from too. On a CPU
    it is the peak of malloc, for all libraries, and this function must be called in a `Process`.
    Make the call once before, so that memory that a library then keeps does not count.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    hook = ctypes.CDLL(None)
    hook.malloc_hook_peak.restype = ctypes.c_long
    hook.malloc_hook_reset_peak()
    call()
    return hook.malloc_hook_peak() / MIB
