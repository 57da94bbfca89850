"""How many programs of a kernel a device runs at the same time."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import triton

_known: dict[tuple[Any, ...], int] = {}


def room(
    kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any], device: torch.device
) -> int:
    """How many programs of `kernel`, called so, the device holds; it compiles the kernel."""
    if device.type != "cuda":
        return 0  # the interpreter runs one program after the other
    types = tuple(a.dtype if isinstance(a, torch.Tensor) else type(a) for a in arguments)
    key = (kernel.__name__, device.index, types, *constants.items())
    if key not in _known:
        compiled = kernel.warmup(*arguments, grid=(1,), launch_cooperative_grid=True, **constants)
        try:
            compiled._init_handles()  # loads it; its `function` is None before
        except triton.OutOfResources:
            _known[key] = 0
        else:
            threads, shared = compiled.metadata.num_warps * 32, compiled.metadata.shared
            processors = torch.cuda.get_device_properties(device).multi_processor_count
            _known[key] = _blocks(compiled.function, threads, shared) * processors
    return _known[key]


def _blocks(function: int, threads: int, shared: int) -> int:
    """How many blocks a multiprocessor holds, as the driver counts; neither torch nor Triton asks.

    0 where the driver cannot tell, as it may under MIG or MPS.
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
