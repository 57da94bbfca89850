"""The Triton backend: fused kernels for CUDA tensors.

Each kernel implements one strategy: `single_cta`, `rows` or `grid`; `table` selects one for a call.
Triton is not imported before the first call. With TRITON_INTERPRET=1 in the environment, the same
kernels run slowly on CPU tensors, so that they can be tested without a GPU.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ...ragged import Ragged
from ..base import Call, Kernels, precision_of
from .table import CAPABILITY, FASTEST, FASTEST_FROM, VERIFIED, Launch, Sizes, choose

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: The oldest supported version of Triton.
VERSION = (3, 6)


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@functools.cache
def _unavailable_reason() -> str | None:
    if torch.version.hip is not None:
        return "the kernels support NVIDIA GPUs only"
    if not interpreting() and not torch.cuda.is_available():
        return "no CUDA GPU here (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    try:
        import triton
    except ImportError as error:
        return f"{error}: pip install 'triton>={'.'.join(map(str, VERSION))}'"
    version = _numbers(triton.__version__)
    if version < VERSION:
        needed = ".".join(map(str, VERSION))
        return f"Triton {triton.__version__} is too old: {needed} or later is required"
    if interpreting() and version < (3, 7):
        import numpy

        if _numbers(numpy.__version__) >= (2, 4):
            return (
                f"the interpreter of Triton {triton.__version__} fails with NumPy 2.4 and later: "
                "pip install 'triton>=3.7' or 'numpy<2.4'"
            )
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two components of a version."""
    return tuple(int(part) for part in version.split(".")[:2])


class Triton(Kernels):
    """The kernels of this folder."""

    name = "triton"

    def unavailable_reason(self) -> str | None:
        """Why no kernel can run on this machine, or None."""
        return _unavailable_reason()

    def unsupported_reason(self, call: Call) -> str | None:
        """Why no kernel supports the call, or None."""
        kind = call.device.type
        if kind == "cuda":
            if call.capability < CAPABILITY:
                major, minor = call.capability
                return (
                    f"this GPU's compute capability is {major}.{minor}, "
                    f"but the Triton kernels need {CAPABILITY[0]}.{CAPABILITY[1]} or later"
                )
        elif not (kind == "cpu" and interpreting()):
            return f"the Triton kernels support CUDA tensors, not {kind!r} ones"
        if not call.is_of_nn_rnn():
            return f"there are no Triton kernels for {call.mode}"
        if call.dtype not in DTYPES:
            return f"the Triton kernels support float32, bfloat16 and float16, not {call.dtype}"
        if kind == "cpu" and call.dtype == torch.bfloat16:
            return "Triton's interpreter computes wrong bfloat16 products"
        return None

    def unverified_reason(self, call: Call) -> str | None:
        """Why the kernel that serves the call is not verified on such a GPU, or None."""
        if call.device.type != "cuda":
            return None
        sizes = sizes_of(call)
        kernel = choose(sizes)
        if (kernel, sizes.capability) in VERIFIED:
            return None
        major, minor = sizes.capability
        return (
            f"the {kernel} kernel has not been verified on an sm_{major}{minor} GPU; "
            'fastrnn.use_backend("triton") uses it anyway'
        )

    def slower_reason(self, call: Call) -> str | None:
        """Why the CUDA kernels are faster, or None; docs/kernels.md has the measurements."""
        if call.steps < FASTEST_FROM:
            return f"below {FASTEST_FROM} steps the CUDA kernels are faster"
        kernel = choose(sizes_of(call))
        if kernel not in FASTEST:
            return f"the CUDA kernels are faster than the {kernel} kernel"
        return None

    def detail(self) -> str:
        """One line for the doctor's table."""
        import triton

        where = "interpreted on the CPU" if interpreting() else "NVIDIA GPUs"
        proven = ", ".join(f"{kernel} on sm_{a}{b}" for kernel, (a, b) in sorted(VERIFIED))
        return f"Triton {triton.__version__}, {where}; verified on hardware: {proven or 'none'}"

    def forward_out(
        self,
        out: Tensor,
        pre: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        ragged: Ragged,
        activation: int,
        reverse_from: int,
        *,
        kernel: str | None = None,
    ) -> Tensor:
        """See `Kernels`; `kernel` overrides the table."""
        h_n = h0.new_empty(h0.shape)
        call = Call.of(pre, h0, ragged, activation)
        launch = _launcher("forward", kernel, call, reverse_from)
        dense = (tensor.contiguous() for tensor in (pre, weight_hh, h0))
        launch(*dense, *_readable(ragged), out, h_n)
        return h_n

    def backward(
        self,
        grad_out: Tensor,
        grad_h_n: Tensor,
        out: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        ragged: Ragged,
        activation: int,
        reverse_from: int,
        *,
        kernel: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Kernels`; `kernel` overrides the table."""
        grad_pre, grad_h0 = out.new_empty(out.shape), h0.new_empty(h0.shape)
        call = Call.of(out, h0, ragged, activation)
        launch = _launcher("backward", kernel, call, reverse_from)
        dense = (tensor.contiguous() for tensor in (grad_out, grad_h_n, out, weight_hh))
        launch(*dense, *_readable(ragged), grad_pre, grad_h0)
        return grad_pre, grad_h0


BACKEND = Triton()


def sizes_of(call: Call) -> Sizes:
    """Return the sizes and limits that the choice of a kernel depends on."""
    sizes = Sizes(call.batch, call.groups, call.hidden, precision_of(call.dtype))
    if call.gpu is not None:
        wgmma = call.gpu.capability == (9, 0)
        return sizes._replace(
            capability=call.gpu.capability,
            shared=call.gpu.shared,
            processors=call.gpu.processors,
            wgmma=wgmma,
        )
    return sizes._replace(**_limits(call.device.index)) if call.device.type == "cuda" else sizes


@functools.cache
def _limits(device: int) -> dict[str, Any]:
    """Return the fields of `Sizes` that describe a CUDA device."""
    from triton.runtime import driver

    properties = driver.active.utils.get_device_properties(device)
    capability = torch.cuda.get_device_capability(device)
    return {
        "capability": capability,
        "wgmma": capability == (9, 0) and _has_gluon(),
        "shared": properties["max_shared_mem"],
        "processors": properties["multiprocessor_count"],
    }


def _has_gluon() -> bool:
    """Whether the installed Triton has a compatible version of Gluon, which is experimental."""
    try:
        _module("single_cta_gluon")
    except (ImportError, AttributeError):
        return False
    return True


def _readable(ragged: Ragged) -> list[Tensor | None]:
    """Convert to the kernels' form. Resets become bytes: Triton would stall on a loaded bool."""
    lengths, offsets, resets = ragged
    flags = resets if resets is None else resets.view(torch.uint8)
    return [x if x is None else x.contiguous() for x in (lengths, offsets, flags)]


def _launcher(
    direction: str, kernel: str | None, call: Call, reverse_from: int
) -> Callable[..., None]:
    """Return a function of the tensors that fills the outputs."""
    sizes = sizes_of(call)
    fast = sizes.mode != "float32" and not interpreting()
    relu = call.mode == "RNN_RELU"
    launch = Launch(sizes, call.steps, reverse_from, relu, fast, call.device)
    module = _module(kernel or choose(sizes))

    def run(*tensors: Tensor | None) -> None:
        if sizes.batch == 0:
            return
        with torch.cuda.device(call.device) if call.device.type == "cuda" else nullcontext():
            getattr(module, f"launch_{direction}")(launch, *tensors)

    return run


@functools.cache
def _module(kernel: str) -> ModuleType:
    return import_module(f".{kernel}", __name__)
