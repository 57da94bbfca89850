"""The CUDA backend: the extension's kernels for CUDA tensors.

A call is served by one of three strategies, ``cluster``, ``grid`` or ``step``, which csrc/cuda
describes; `fastrnn.explain` says which and why.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ragged import Ragged
from . import cpu
from ._loader import Extension
from .base import Call, Kernels, precision_of

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STRATEGIES = ("cluster", "grid", "step")  # in the order of csrc/cuda/plan.h

#: The compute capabilities on which every strategy passed every check; `auto` takes no kernel on
#: another. The record: benchmarks/results/nvidia-h200/2026-11-26t10-14-2345bff-check.json.
VERIFIED = {(9, 0)}

EXTENSION = Extension(
    "_cuda",
    error="_cuda_build_error.txt",
    remedy="run `FASTRNN_BUILD=cuda python setup.py build_ext --inplace` where nvcc is",
)


def verified() -> str:
    """The GPUs on which a record shows the kernels to be right."""
    return ", ".join(f"sm_{a}{b}" for a, b in sorted(VERIFIED)) or "nowhere yet"


class Cuda(Kernels):
    """The kernels of csrc/cuda."""

    name = "cuda"

    def unavailable_reason(self) -> str | None:
        """Why no kernel can be run on this machine, or None."""
        if not torch.cuda.is_available():
            return "no CUDA GPU here"
        return (
            cpu.EXTENSION.unavailable_reason or EXTENSION.unavailable_reason
        )  # the plan is a part of the first

    def unsupported_reason(self, call: Call) -> str | None:
        """Why no kernel serves the call, or None."""
        if call.device.type != "cuda":
            return f"the CUDA kernels serve CUDA tensors, not {call.device.type!r} ones"
        if call.dtype not in DTYPES:
            return f"the CUDA kernels have none for {call.dtype}"
        return None

    def unverified_reason(self, call: Call) -> str | None:
        """Whether the kernels were proven on such a GPU."""
        major, minor = call.capability
        if (major, minor) in VERIFIED:
            return None
        return (
            f"the CUDA kernels have not yet been proven on an sm_{major}{minor} GPU; "
            'fastrnn.use_backend("cuda") takes them all the same'
        )

    def detail(self) -> str:
        """One line for the doctor's table."""
        built = EXTENSION.info
        return f"CUDA {built['cuda']}, for {built['cuda_archs']}; proven on hardware: {verified()}"

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
        strategy: str = "",
    ) -> Tensor:
        """See `Kernels`; `strategy` overrides the plan."""
        h_n = h0.new_empty(h0.shape)
        options = activation, reverse_from, _tf32(h0), _code(strategy)
        torch.ops.fastrnn.cuda_forward(pre, weight_hh, h0, *ragged, out, h_n, *options)
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
        strategy: str = "",
    ) -> tuple[Tensor, Tensor]:
        """See `Kernels`; `strategy` as in forward."""
        out = out.contiguous()
        grad_pre = torch.zeros_like(out) if ragged.is_packed() else torch.empty_like(out)
        grad_h0 = h0.new_empty(h0.shape)
        options = activation, reverse_from, _tf32(h0), _code(strategy)
        given = grad_out, grad_h_n, out, weight_hh, h0, *ragged
        torch.ops.fastrnn.cuda_backward(*given, grad_pre, grad_h0, *options)
        return grad_pre, grad_h0


BACKEND = Cuda()


def _code(strategy: str) -> int:
    """The strategy's number in the operators' schemas; -1 leaves the choice to the plan."""
    if strategy == "":
        return -1
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES} or '', got {strategy!r}")
    return STRATEGIES.index(strategy)


def _tf32(state: Tensor) -> bool:
    """Whether float32 products may be rounded to tf32, as cuDNN's may."""
    return precision_of(state.dtype) == "tf32"


def device(index: int) -> Any:
    """A CUDA device as the plan sees it, `fastrnn._C.Device`."""
    return EXTENSION.module.device(index)
