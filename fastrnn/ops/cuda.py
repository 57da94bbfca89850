"""The CUDA backend: the extension's kernels for CUDA tensors.

A call is served by one of three strategies, ``cluster``, ``grid`` or ``step``, which csrc/cuda
describes; `fastrnn.explain` says which and why.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cpp
from .extension import Extension
from .triton.table import mode_of

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STRATEGIES = ("cluster", "grid", "step")  # in the order of csrc/cuda/plan.h

#: Compute capability -> the record in benchmarks/results that proves every strategy there. `auto`
#: takes no kernel on a GPU that is not here.
RECORDS: dict[tuple[int, int], str] = {
    (9, 0): "nvidia-h200/2026-11-26t10-14-2345bff-check.json",
}

EXTENSION = Extension(
    "_cuda",
    error="_cuda_build_error.txt",
    remedy="run `FASTRNN_BUILD=cuda python setup.py build_ext --inplace` where nvcc is",
)


def unusable() -> str | None:
    """Why no kernel can be run on this machine, or None."""
    if not torch.cuda.is_available():
        return "no CUDA GPU here"
    return cpp.unusable() or EXTENSION.unusable  # the plan is a part of the first


def detail() -> str:
    """What was built, in a line."""
    built = EXTENSION.info
    return f"CUDA {built['cuda']}, for {built['cuda_archs']}; proven on hardware: {proven()}"


def proven() -> str:
    """The GPUs on which a record shows the kernels to be right."""
    return ", ".join(f"sm_{a}{b}" for a, b in RECORDS) or "nowhere yet"


def refuses(state: Tensor) -> str | None:
    """Why no kernel can serve a call with a state like this one, [B, G, H], or None."""
    if state.device.type != "cuda":
        return f"the CUDA kernels serve CUDA tensors, not {state.device.type!r} ones"
    if state.dtype not in DTYPES:
        return f"the CUDA kernels have none for {state.dtype}"
    return None


def untried(state: Tensor) -> str | None:
    """Why `auto` does not let a kernel serve such a call: what `refuses` says, or no proof."""
    reason = refuses(state)
    if reason is None:
        major, minor = torch.cuda.get_device_capability(state.device)
        if (major, minor) not in RECORDS:
            reason = (
                f"the CUDA kernels have not yet been proven on an sm_{major}{minor} GPU; "
                'fastrnn.backend("cuda") takes them all the same'
            )
    return reason


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
    strategy: str = "",
) -> tuple[Tensor, Tensor]:
    """The operator's forward, see `fastrnn.ops.reference.forward`; `strategy` overrides the plan.

    Rows of packed data that no step names are zero, as inactive rows are.
    """
    pre = pre.contiguous()
    out = torch.empty_like(pre) if offsets is None else torch.zeros_like(pre)
    h_n = h0.new_empty(h0.shape)
    options = activation, reverse_from, _tf32(h0), _code(strategy)
    torch.ops.fastrnn.cuda_forward(pre, weight_hh, h0, lengths, offsets, resets, out, h_n, *options)
    return out, h_n


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
    h_n = h0.new_empty(h0.shape)
    out = pre.contiguous()
    options = activation, reverse_from, _tf32(h0), _code("")
    torch.ops.fastrnn.cuda_forward(out, weight_hh, h0, lengths, None, resets, out, h_n, *options)
    if out is not pre:
        pre.copy_(out)
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
    strategy: str = "",
) -> tuple[Tensor, Tensor]:
    """The operator's backward, see `fastrnn.ops.reference.backward`; `strategy` as in forward."""
    out = out.contiguous()
    grad_pre = torch.empty_like(out) if offsets is None else torch.zeros_like(out)
    grad_h0 = h0.new_empty(h0.shape)
    ragged = lengths, offsets, resets
    options = activation, reverse_from, _tf32(h0), _code(strategy)
    torch.ops.fastrnn.cuda_backward(
        grad_out, grad_h_n, out, weight_hh, h0, *ragged, grad_pre, grad_h0, *options
    )
    return grad_pre, grad_h0


def _code(strategy: str) -> int:
    """The strategy's number in the operators' schemas; -1 leaves the choice to the plan."""
    if strategy == "":
        return -1
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES} or '', got {strategy!r}")
    return STRATEGIES.index(strategy)


def _tf32(state: Tensor) -> bool:
    """Whether float32 products may be rounded to tf32, as cuDNN's may."""
    return state.dtype == torch.float32 and mode_of(state.dtype) == "tf32"


def device(index: int) -> Any:
    """A CUDA device as the plan sees it, `fastrnn._C.Device`."""
    return EXTENSION.module.device(index)
