"""The CUDA backend: the extension's kernels for CUDA tensors.

One of three strategies serves a call: ``cluster``, ``grid`` or ``step``, documented in csrc/cuda.
`fastrnn.explain` reports which one and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import Arguments, Gradients, Outputs
from ..cells import CELLS
from ..cells.base import Step
from ..ragged import Ragged
from ..reference import accumulation_dtype
from . import cpu
from ._loader import Extension
from .base import AllCells, Call, check_starts_from_0, precision_of

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STRATEGIES = ("cluster", "grid", "step")  # in the order of csrc/cuda/plan.h

#: The compute capabilities on which every strategy of nn.RNN's cells passed every check; `auto`
#: uses no kernel on any other, and none of another cell.
#: The record: benchmarks/results/nvidia-h200/2026-11-26t10-14-2345bff-check.json.
VERIFIED = {(9, 0)}

EXTENSION = Extension(
    "_cuda",
    error="_cuda_build_error.txt",
    remedy="run `FASTRNN_BUILD=cuda python setup.py build_ext --inplace` on a machine with nvcc",
)


def verified() -> str:
    """List the GPU architectures on which a record verifies the kernels."""
    return ", ".join(f"sm_{a}{b}" for a, b in sorted(VERIFIED)) or "none"


class Cuda(AllCells):
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
        if call.dtype not in DTYPES:
            return f"the CUDA kernels do not support {call.dtype}"
        return None

    def unverified_reason(self, call: Call) -> str | None:
        """Why the kernels are not verified on such a GPU, or None."""
        major, minor = call.capability
        if call.is_of_nn_rnn() and (major, minor) in VERIFIED:
            return None
        kernels = "CUDA kernels" if call.is_of_nn_rnn() else f"CUDA kernels for {call.mode}"
        return (
            f"the {kernels} have not been verified on an sm_{major}{minor} GPU; "
            'fastrnn.use_backend("cuda") uses them anyway'
        )

    def detail(self) -> str:
        """One line for the doctor's table."""
        built = EXTENSION.info
        hardware = f"nn.RNN's cells verified on hardware: {verified()}"
        return f"CUDA {built['cuda']} for {built['cuda_archs']}; {hardware}"

    def recurrence_out(
        self,
        pre: Tensor,
        arguments: Arguments,
        out: Tensor,
        c_n: Tensor | None = None,
        gates: Tensor | None = None,
        inner: Tensor | None = None,
        *,
        strategy: str = "",
    ) -> Tensor:
        """See `Kernels`; `strategy` overrides the plan."""
        check_starts_from_0(arguments)
        h0 = arguments.h0
        h_n = h0.new_empty(h0.shape)
        results = out, h_n, c_n, gates, inner
        options = allows_tf32(h0), _code(strategy)
        torch.ops.fastrnn.cuda_forward(pre, *arguments, *results, *options)
        return h_n

    def recurrence_backward(
        self, grads: Outputs, saved: Step, arguments: Arguments, *, strategy: str = ""
    ) -> Gradients:
        """See `Kernels`; `strategy` overrides the plan."""
        check_starts_from_0(arguments)
        cell, h0, out = CELLS[arguments.mode], arguments.h0, saved.state.h.contiguous()
        new = out.new_zeros if arguments.offsets is not None else out.new_empty
        grad_h0 = h0.new_empty(h0.shape)
        grad_c0 = h0.new_empty(h0.shape) if cell.has_c else None
        of_pre = new(*out.shape[:-1], cell.gates * out.shape[-1])
        of_units = new(out.shape) if cell.has_unit_param else None
        acc = accumulation_dtype(out.dtype)
        sums = [
            None if start is None else torch.zeros_like(h0, dtype=acc)
            for start in (arguments.reset_h, arguments.reset_c)
        ]
        torch.ops.fastrnn.cuda_backward(
            *(grads.out, grads.h_n, grads.c_n, out, saved.gates, saved.inner),
            *arguments,
            *(of_pre, grad_h0, grad_c0, of_units, *sums, allows_tf32(h0), _code(strategy)),
        )
        of_resets = [x if x is None else x.to(out.dtype) for x in sums]
        return Gradients(of_pre, grad_h0, grad_c0, of_units, *of_resets)


BACKEND = Cuda()


def _code(strategy: str) -> int:
    """Return the strategy's number in the operators' schemas; -1 leaves the choice to the plan."""
    if strategy == "":
        return -1
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES} or '', got {strategy!r}")
    return STRATEGIES.index(strategy)


def allows_tf32(data: Tensor) -> bool:
    """Whether float32 products may be rounded to tf32, as cuDNN's may."""
    return precision_of(data.dtype) == "tf32"


def serves_layers(
    input: Tensor, weights: Sequence[Tensor], ragged: Ragged, mode: int, training: bool
) -> bool:
    """Whether the extension's operators compute whole layers of such a call.

    They do not for a block-diagonal weight of several gates, whose rows are in another order than
    those of pre. In training on large data with lengths or resets, torch's products of copies are
    expected to be faster than the kernel that sums the gradients of the weights without them.
    """
    weight_ih, weight_hh = weights[:2]
    if input.dtype not in DTYPES or (weight_hh.dim() == 3 and CELLS[mode].gates > 1):
        return False
    if not training or (ragged.lengths is None and ragged.resets is None):
        return True
    rows, factors = input[..., 0].numel(), input.shape[-1] + weight_hh.shape[-1]
    operations = 2 * rows * weight_ih.shape[0] * factors
    return bool(operations <= cpu.EXTENSION.module.small_weight_products)


def device(index: int) -> Any:
    """Return a CUDA device in the form of the plan, `fastrnn._C.Device`."""
    return EXTENSION.module.device(index)
