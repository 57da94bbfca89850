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

from ...arguments import Arguments, Gradients, Outputs
from ...cells import CELLS, CODES
from ...cells.base import Step
from ...ragged import Ragged
from ..base import AllCells, Call, check_starts_from_0, precision_of
from .table import (
    CAPABILITY,
    CELL_KERNELS,
    FASTEST,
    FASTEST_FROM,
    VERIFIED,
    Launch,
    Sizes,
    choose,
    unserved_reason,
)

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


class Triton(AllCells):
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
        if call.dtype not in DTYPES:
            return f"the Triton kernels support float32, bfloat16 and float16, not {call.dtype}"
        if kind == "cpu" and call.dtype == torch.bfloat16:
            return "Triton's interpreter computes wrong bfloat16 products"
        if call.is_of_nn_rnn():
            return None  # `grid` serves every size
        return unserved_reason(call.mode, sizes_of(call))

    def unverified_reason(self, call: Call) -> str | None:
        """Why the kernel that serves the call is not verified on such a GPU, or None."""
        if call.device.type != "cuda":
            return None
        sizes = sizes_of(call)
        kernel = choose(sizes)
        if call.is_of_nn_rnn() and (kernel, sizes.capability) in VERIFIED:
            return None
        major, minor = sizes.capability
        which = "kernel" if call.is_of_nn_rnn() else f"kernel for {call.mode}"
        return (
            f"the {kernel} {which} has not been verified on an sm_{major}{minor} GPU; "
            'fastrnn.use_backend("triton") uses it anyway'
        )

    def slower_reason(self, call: Call) -> str | None:
        """Why the CUDA kernels are faster, or None; docs/kernels.md has the measurements."""
        if not call.is_of_nn_rnn():
            return f"no measurement compares its kernels for {call.mode} with the CUDA kernels"
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
        hardware = f"nn.RNN's cells verified on hardware: {proven or 'none'}"
        return f"Triton {triton.__version__}, {where}; {hardware}"

    def recurrence_out(
        self,
        pre: Tensor,
        arguments: Arguments,
        out: Tensor,
        c_n: Tensor | None = None,
        gates: Tensor | None = None,
        inner: Tensor | None = None,
        *,
        kernel: str | None = None,
    ) -> Tensor:
        """See `Kernels`; `kernel` overrides the table."""
        check_starts_from_0(arguments)
        h0, ragged = arguments.h0, arguments.ragged()
        h_n = h0.new_empty(h0.shape)
        call = Call.of(pre, h0, ragged, arguments.mode)
        launch = _launcher("forward", kernel, call, arguments.reverse_from)
        given = _dense(pre, arguments.weight_hh, h0)
        if call.is_of_nn_rnn():
            launch(*given, *_readable(ragged), out, h_n)
        else:
            given += _dense(arguments.c0, arguments.unit_param)
            starts = _dense(arguments.reset_h, arguments.reset_c)
            launch(*given, *_readable(ragged), *starts, out, h_n, c_n, gates, inner)
        return h_n

    def recurrence_backward(
        self, grads: Outputs, saved: Step, arguments: Arguments, *, kernel: str | None = None
    ) -> Gradients:
        """See `Kernels`; `kernel` overrides the table."""
        check_starts_from_0(arguments)
        h0, ragged, out = arguments.h0, arguments.ragged(), saved.state.h
        cell, call = CELLS[arguments.mode], Call.of(out, h0, ragged, arguments.mode)
        launch = _launcher("backward", kernel, call, arguments.reverse_from)
        new = out.new_zeros if ragged.is_packed() else out.new_empty
        of_pre = new(*out.shape[:-1], cell.gates * call.hidden)
        if call.is_of_nn_rnn():
            given = _dense(grads.out, grads.h_n, out, arguments.weight_hh)
            grad_h0 = h0.new_empty(h0.shape)
            launch(*given, *_readable(ragged), of_pre, grad_h0)
            return Gradients(of_pre, grad_h0)
        of_units = new(out.shape) if cell.has_unit_param else None
        states = h0, arguments.c0, arguments.reset_h, arguments.reset_c
        of_states: list[Any] = [x if x is None else h0.new_empty(h0.shape) for x in states]
        given = _dense(grads.out, grads.h_n, grads.c_n, saved.gates)
        # The states before the steps are those of c, the inner value, if the cell has c.
        if cell.has_c:
            given += _dense(None, saved.inner, arguments.c0, arguments.reset_c)
        else:
            given += _dense(saved.inner, out, h0, arguments.reset_h)
        given += _dense(arguments.weight_hh, arguments.unit_param)
        launch(*given, *_readable(ragged), of_pre, of_units, *of_states)
        of_h0, of_c0, *of_resets = of_states
        return Gradients(of_pre, of_h0, of_c0, of_units, *of_resets)


BACKEND = Triton()


def sizes_of(call: Call) -> Sizes:
    """Return the sizes and limits that the choice of a kernel depends on."""
    cell = CELLS[CODES[call.mode]]
    sizes = Sizes(call.batch, call.groups, call.hidden, precision_of(call.dtype))
    sizes = sizes._replace(gates=cell.gates if cell.saves else 0)
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


def _dense(*tensors: Any) -> list[Any]:
    """Return the tensors, or None, in contiguous memory."""
    return [x if x is None else x.contiguous() for x in tensors]


def _launcher(
    direction: str, kernel: str | None, call: Call, reverse_from: int
) -> Callable[..., None]:
    """Return a function of the tensors that fills the outputs."""
    sizes = sizes_of(call)
    fast = sizes.mode != "float32" and not interpreting()
    relu, kind = call.mode.endswith("_RELU"), call.mode.removesuffix("_TANH").removesuffix("_RELU")
    launch = Launch(sizes, call.steps, reverse_from, relu, fast, call.device, kind)
    module = _module(kernel or choose(sizes), not call.is_of_nn_rnn())

    def run(*tensors: Tensor | None) -> None:
        if sizes.batch == 0:
            return
        with torch.cuda.device(call.device) if call.device.type == "cuda" else nullcontext():
            getattr(module, f"launch_{direction}")(launch, *tensors)

    return run


@functools.cache
def _module(kernel: str, saves: bool = False) -> ModuleType:
    """Import a kernel, for nn.RNN's cells or for those that save gates."""
    if not saves:
        return import_module(f".{kernel}", __name__)
    if kernel not in CELL_KERNELS:
        raise ValueError(f"the {kernel} kernel serves nn.RNN's cells only")
    return import_module(f".{kernel}_cells", __name__)
