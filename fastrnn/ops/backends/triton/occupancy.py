"""The number of programs of a kernel that a device runs at the same time."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import triton

_known: dict[tuple[Any, ...], int] = {}


def room(
    kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any], device: torch.device
) -> int:
    """Return how many programs of `kernel` with these arguments fit on the device at once.

    Compiles the kernel.
    """
    if device.type != "cuda":
        return 0  # the interpreter runs programs one after another
    types = tuple(a.dtype if isinstance(a, torch.Tensor) else type(a) for a in arguments)
    key = (kernel.__name__, device.index, types, *constants.items())
    if key not in _known:
        compiled = kernel.warmup(*arguments, grid=(1,), launch_cooperative_grid=True, **constants)
        try:
            compiled._init_handles()  # loads the kernel: `function` is None before
        except triton.OutOfResources:
            _known[key] = 0
        else:
            threads, shared = compiled.metadata.num_warps * 32, compiled.metadata.shared
            processors = torch.cuda.get_device_properties(device).multi_processor_count
            _known[key] = _blocks(compiled.function, threads, shared) * processors
    return _known[key]


def _blocks(function: int, threads: int, shared: int) -> int:
    """Query the driver for the number of blocks that fit on a multiprocessor.

    Neither torch nor Triton has this query. Returns 0 if it fails, as it may under MIG or MPS.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    blocks = ctypes.c_int(0)
    status = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
        ctypes.byref(blocks),
        ctypes.c_void_p(function),
        ctypes.c_int(threads),
        ctypes.c_size_t(shared),
    )
    return blocks.value if status == 0 else 0
