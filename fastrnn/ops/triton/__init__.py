"""The Triton backend: fused kernels for CUDA tensors.

One kernel is one strategy: `single_cta`, `rows`, `grid`; `table` says which serves a call. Nothing
of Triton is imported before the first call. With TRITON_INTERPRET=1 in the environment the same
kernels run on CPU tensors, slowly, which is how they are tested where there is no GPU.
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

from ..reference import RELU
from .table import CAPABILITY, FASTEST, FASTEST_FROM, RECORDS, Call, Sizes, choose, mode_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: The oldest Triton that has all we ask of it.
VERSION = (3, 6)


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@functools.cache
def unusable() -> str | None:
    """Why no kernel can be run on this machine, or None."""
    if torch.version.hip is not None:
        return "the kernels are written for NVIDIA GPUs"
    if not interpreting() and not torch.cuda.is_available():
        return "no CUDA GPU here (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    try:
        import triton
    except ImportError as error:
        return f"{error}: pip install 'triton>={'.'.join(map(str, VERSION))}'"
    version = _numbers(triton.__version__)
    if version < VERSION:
        needed = ".".join(map(str, VERSION))
        return f"Triton {triton.__version__} is too old: {needed} or later is needed"
    if interpreting() and version < (3, 7):
        import numpy

        if _numbers(numpy.__version__) >= (2, 4):
            return (
                f"the interpreter of Triton {triton.__version__} fails with NumPy 2.4 and later: "
                "pip install 'triton>=3.7' or 'numpy<2.4'"
            )
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The first two of a version."""
    return tuple(int(part) for part in version.split(".")[:2])


def detail() -> str:
    """What the doctor's table says of it."""
    import triton

    where = "interpreted on the CPU" if interpreting() else "NVIDIA GPUs"
    proven = ", ".join(f"{kernel} on sm_{a}{b}" for kernel, (a, b) in RECORDS)
    return f"Triton {triton.__version__}, {where}; proven on hardware: {proven or 'none yet'}"


def refuses(state: Tensor) -> str | None:
    """Why no kernel can serve a call with a state like this one, [B, G, H], or None."""
    kind = state.device.type
    if kind == "cuda":
        capability = torch.cuda.get_device_capability(state.device)
        if capability < CAPABILITY:
            return (
                f"this GPU's compute capability is {capability[0]}.{capability[1]}, "
                f"and the Triton kernels need {CAPABILITY[0]}.{CAPABILITY[1]}"
            )
    elif not (kind == "cpu" and interpreting()):
        return f"the Triton kernels serve CUDA tensors, not {kind!r} ones"
    if state.dtype not in DTYPES:
        return f"the Triton kernels serve float32, bfloat16 and float16, not {state.dtype}"
    if kind == "cpu" and state.dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 products wrongly"
    return None


def untried(state: Tensor) -> str | None:
    """Why `auto` does not let a kernel serve such a call: what `refuses` says, or no proof."""
    reason = refuses(state)
    if reason is None and state.device.type == "cuda":
        sizes = sizes_of(state)
        kernel = choose(sizes)
        if (kernel, sizes.capability) not in RECORDS:
            major, minor = sizes.capability
            reason = (
                f"the {kernel} kernel has not yet been proven on an sm_{major}{minor} GPU; "
                'fastrnn.backend("triton") takes it all the same'
            )
    return reason


def outrun(state: Tensor, steps: int) -> str | None:
    """Why `auto` asks the CUDA kernels first: what `untried` says, or that they are faster."""
    if steps < FASTEST_FROM:  # first: of a call so short the rest of the question would be a tenth
        return f"of fewer than {FASTEST_FROM} steps the CUDA kernels make less"
    reason = untried(state)
    if reason is None and (kernel := choose(sizes_of(state))) not in FASTEST:
        reason = f"the CUDA kernels are faster than the {kernel} kernel"
    return reason


def sizes_of(state: Tensor) -> Sizes:
    """What the choice of a kernel depends on, from a state [B, G, H]."""
    batch, groups, hidden = state.shape
    sizes = Sizes(batch, groups, hidden, mode_of(state.dtype))
    return sizes._replace(**_limits(state.device.index)) if state.is_cuda else sizes


@functools.cache
def _limits(device: int) -> dict[str, Any]:
    """What `Sizes` says of a CUDA device."""
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
    """Whether the installed Triton has Gluon, which it calls experimental, as we know it."""
    try:
        _module("single_cta_gluon")
    except (ImportError, AttributeError):
        return False
    return True


def forward(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    activation: int,
    reverse_from: int,
    *,
    kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The operator's forward, see `fastrnn.ops.reference.forward`. `kernel` overrides the table."""
    pre = pre.contiguous()
    out = torch.empty_like(pre)
    ragged = lengths, offsets, resets
    return out, _fill(kernel, out, pre, weight_hh, h0, *ragged, activation, reverse_from)


def forward_(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    activation: int,
    reverse_from: int,
) -> Tensor:
    """The same for dense data, with out in pre's place; returns h_n."""
    out = pre.contiguous()
    h_n = _fill(None, out, out, weight_hh, h0, lengths, None, resets, activation, reverse_from)
    if out is not pre:
        pre.copy_(out)
    return h_n


def _fill(
    kernel: str | None,
    out: Tensor,
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    activation: int,
    reverse_from: int,
) -> Tensor:
    """Fill out, which may be pre; return h_n."""
    h_n = h0.new_empty(h0.shape)
    launch = _launcher("forward", kernel, h0, pre, offsets, activation, reverse_from)
    ragged = _ragged(lengths, offsets, resets)
    launch(pre, weight_hh.contiguous(), h0.contiguous(), *ragged, out, h_n)
    return h_n


def backward(
    grad_out: Tensor,
    grad_h_n: Tensor,
    out: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    activation: int,
    reverse_from: int,
    *,
    kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The operator's backward, see `fastrnn.ops.reference.backward`; `kernel` as in forward."""
    grad_pre, grad_h0 = out.new_empty(out.shape), h0.new_empty(h0.shape)
    launch = _launcher("backward", kernel, h0, out, offsets, activation, reverse_from)
    dense = (tensor.contiguous() for tensor in (grad_out, grad_h_n, out, weight_hh))
    launch(*dense, *_ragged(lengths, offsets, resets), grad_pre, grad_h0)
    return grad_pre, grad_h0


def _ragged(
    lengths: Tensor | None, offsets: Tensor | None, resets: Tensor | None
) -> list[Tensor | None]:
    """As the kernels read them; resets as bytes, since Triton would wait for a bool it loads."""
    flags = resets if resets is None else resets.view(torch.uint8)
    every = (lengths, offsets, flags)
    return [tensor if tensor is None else tensor.contiguous() for tensor in every]


def _launcher(
    direction: str,
    kernel: str | None,
    state: Tensor,  # [B, G, H]
    data: Tensor,  # [T, B, G, H] or [N, G, H]
    offsets: Tensor | None,
    activation: int,
    reverse_from: int,
) -> Callable[..., None]:
    """What fills the outputs, once given the tensors."""
    sizes = sizes_of(state)
    steps = data.shape[0] if offsets is None else offsets.shape[0]
    fast = sizes.mode != "float32" and not interpreting()
    call = Call(sizes, steps, reverse_from, activation == RELU, fast, state.device)
    module = _module(kernel or choose(sizes))

    def launch(*tensors: Tensor | None) -> None:
        if sizes.batch == 0:
            return
        with torch.cuda.device(state.device) if state.is_cuda else nullcontext():
            getattr(module, f"launch_{direction}")(call, *tensors)

    return launch


@functools.cache
def _module(kernel: str) -> ModuleType:
    return import_module(f".{kernel}", __name__)
