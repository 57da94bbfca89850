"""The CUDA backend: the extension's kernels for CUDA tensors.

One of three strategies serves a call: ``cluster``, ``grid`` or ``step``, documented in csrc/cuda.
`fastrnn.explain` reports which one and why.
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

#: The compute capabilities on which every strategy passed every check; `auto` uses no kernel on
#: any other. The record: benchmarks/results/nvidia-h200/2026-11-26t10-14-2345bff-check.json.
VERIFIED = {(9, 0)}

EXTENSION = Extension(
    "_cuda",
    error="_cuda_build_error.txt",
    remedy="run `FASTRNN_BUILD=cuda python setup.py build_ext --inplace` on a machine with nvcc",
)


def verified() -> str:
    """List the GPU architectures on which a record verifies the kernels."""
    return ", ".join(f"sm_{a}{b}" for a, b in sorted(VERIFIED)) or "none"


class Cuda(Kernels):
    """The kernels of csrc/cuda."""

    name = "cuda"

    def unavailable_reason(self) -> str | None:
        """Why no kernel can run on this machine, or None."""
        if not torch.cuda.is_available():
            return "no CUDA GPU here"
        # The CPU extension contains the plan.
        return cpu.EXTENSION.unavailable_reason or EXTENSION.unavailable_reason

    def unsupported_reason(self, call: Call) -> str | None:
        """Why no kernel supports the call, or None."""
        if call.device.type != "cuda":
            return f"the CUDA kernels support CUDA tensors, not {call.device.type!r} ones"
        if not call.is_of_nn_rnn():
            return f"there are no CUDA kernels for {call.mode}"
        if call.dtype not in DTYPES:
            return f"the CUDA kernels do not support {call.dtype}"
        return None

    def unverified_reason(self, call: Call) -> str | None:
        """Why the kernels are not verified on such a GPU, or None."""
        major, minor = call.capability
        if (major, minor) in VERIFIED:
            return None
        return (
            f"the CUDA kernels have not been verified on an sm_{major}{minor} GPU; "
            'fastrnn.use_backend("cuda") uses them anyway'
        )

    def detail(self) -> str:
        """One line for the doctor's table."""
        built = EXTENSION.info
        return f"CUDA {built['cuda']} for {built['cuda_archs']}; verified on hardware: {verified()}"

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
        """See `Kernels`; `strategy` overrides the plan."""
        out = out.contiguous()
        grad_pre = torch.zeros_like(out) if ragged.is_packed() else torch.empty_like(out)
        grad_h0 = h0.new_empty(h0.shape)
        options = activation, reverse_from, _tf32(h0), _code(strategy)
        given = grad_out, grad_h_n, out, weight_hh, h0, *ragged
        torch.ops.fastrnn.cuda_backward(*given, grad_pre, grad_h0, *options)
        return grad_pre, grad_h0


BACKEND = Cuda()


def _code(strategy: str) -> int:
    """Return the strategy's number in the operators' schemas; -1 leaves the choice to the plan."""
    if strategy == "":
        return -1
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES} or '', got {strategy!r}")
    return STRATEGIES.index(strategy)


def _tf32(state: Tensor) -> bool:
    """Whether float32 products may be rounded to tf32, as cuDNN's may."""
    return precision_of(state.dtype) == "tf32"


def device(index: int) -> Any:
    """Return a CUDA device in the form of the plan, `fastrnn._C.Device`."""
    return EXTENSION.module.device(index)
