"""Peak memory: the most that a call holds on top of what was there before it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2**20

#: mallopt(3): allocations from this size on come from the system one by one, and go back to it when
#: they are freed. Else what malloc was given back but kept would be reused, and not be seen.
M_MMAP_THRESHOLD = -3


def peak_mib(call: Callable[[], object], device: str) -> float:
    """MiB that a call needs at its peak, its results included.

    On a GPU torch's allocator counts, which is where cuDNN's workspace comes from too. On a CPU it
    is the process's resident memory, whoever allocated it, in pages: its grain is some hundred KiB.
    The call should have been made before, so that what a library keeps from then on (buffers,
    threads) does not count. It leaves malloc slower than it was: time nothing afterwards.

    Raises:
        OSError: the system is not Linux, or does not let a process reset its peak.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 64 << 10)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A value of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise OSError(f"/proc/self/status has no {name}")
