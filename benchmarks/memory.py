"""Peak memory: the most that a call holds on top of what was there before it."""

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

SOURCE = Path(__file__).parent / "heap.cpp"
FLAGS = ("-std=c++20", "-O2", "-shared", "-fPIC")

#: Seconds of the compiler.
COMPILING = 60

MIB = 2**20


def unavailable(device: str) -> str | None:
    """Why peaks cannot be measured on a device of this type here, or None."""
    if device == "cpu" and shutil.which("c++") is None:
        return "needs c++, which is not installed"
    return None


class Process:
    """A process in which a CPU's peaks are counted: its malloc is that of heap.cpp.

    Args:
        threads: torch's there.

    Raises:
        RuntimeError: heap.cpp does not compile here, or does not count; it is for glibc.
    """

    def __init__(self, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        library = Path(self._folder.name, "heap.so")
        status, said = run(["c++", *FLAGS, str(SOURCE), "-o", str(library)], COMPILING)
        if status != 0:
            raise RuntimeError(f"{SOURCE.name} does not compile: {said[-1000:]}")
        self._executor = ProcessPoolExecutor(1, get_context("spawn"))
        preloaded = os.environ.get("LD_PRELOAD")
        os.environ["LD_PRELOAD"] = " ".join(filter(None, (str(library), preloaded)))
        try:  # the process starts with the first work it is given
            self._executor.submit(_begin, threads).result()
        finally:
            del os.environ["LD_PRELOAD"]
            if preloaded is not None:
                os.environ["LD_PRELOAD"] = preloaded

    def call(self, function: Callable, *arguments: object) -> object:
        """What a function of a module returns there."""
        return self._executor.submit(function, *arguments).result()

    def close(self) -> None:
        self._executor.shutdown()
        self._folder.cleanup()


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    if peak_mib(lambda: torch.empty(MIB), "cpu") < 4:
        raise RuntimeError(f"{SOURCE.name} does not count what torch allocates")


def peak_mib(call: Callable[[], object], device: str) -> float:
    """MiB that a call needs at its peak, its results included.

    On a GPU torch's allocator counts, which is where cuDNN's workspace comes from too. On a CPU,
    where this must be called in a `Process`, it is what malloc has handed out, whoever asked. The
    call should have been made before, so that what a library keeps from then on does not count.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    heap = ctypes.CDLL(None)
    heap.heap_peak.restype = ctypes.c_long
    heap.heap_mark()
    call()
    return heap.heap_peak() / MIB
