"""The CPU backend: the extension's kernels for CPU tensors."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from ..arguments import Arguments, Gradients, Outputs, without_empty
from ..cells.base import Step
from ._loader import Extension
from .base import AllCells, Call

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _use_instruction_set(module: Any) -> None:
    wanted = os.environ.get("FASTRNN_CPU")
    if wanted and not module.use_instruction_set(wanted):
        choices = ", ".join(module.info()["instruction_sets"])
        raise ImportError(f"FASTRNN_CPU={wanted!r}: this processor supports only some of {choices}")


EXTENSION = Extension(
    "_C",
    error="_build_error.txt",
    remedy="run `python setup.py build_ext --inplace`, or install fastrnn again",
    prepare=_use_instruction_set,
)


def multiplies_bfloat16() -> bool:
    """Whether the kernels multiply bfloat16 as it is stored, with Intel AMX."""
    return EXTENSION.unavailable_reason is None and EXTENSION.info["instruction_set"] == "amx"


def allows_bfloat16_products() -> bool:
    """Whether factors of float32 may be rounded to bfloat16, and Intel AMX multiplies them.

    torch.set_float32_matmul_precision("medium") allows it.
    """
    return torch.get_float32_matmul_precision() == "medium" and multiplies_bfloat16()


class Cpu(AllCells):
    """The kernels of csrc/cpu. The extension registers them as the operators for CPU tensors."""

    name = "cpu"

    def unavailable_reason(self) -> str | None:
        """Why the extension cannot be used, or None."""
        return EXTENSION.unavailable_reason

    def serves(self, dtype: torch.dtype) -> bool:
        """Whether it supports a dtype on CPU tensors and is available: a fast path for dispatch."""
        return dtype in DTYPES and EXTENSION.unavailable_reason is None

    def unsupported_reason(self, call: Call) -> str | None:
        """Why no kernel supports the call, or None."""
        if call.device.type != "cpu":
            return f"the CPU kernels support CPU tensors, not {call.device.type!r} ones"
        if call.dtype not in DTYPES:
            return f"the CPU kernels do not support {call.dtype}"
        return None

    def detail(self) -> str:
        """One line for the doctor's table."""
        built = EXTENSION.info
        return f"{built['instruction_set']}, of {' '.join(built['instruction_sets'])} compiled in"

    def recurrence_out(
        self,
        pre: Tensor,
        arguments: Arguments,
        out: Tensor,
        c_n: Tensor | None = None,
        gates: Tensor | None = None,
        inner: Tensor | None = None,
    ) -> Tensor:
        """See `Kernels`."""
        operator: Any = torch.ops.fastrnn.recurrence.out
        h_n: Tensor = operator(pre, *arguments, out=out, c_n=c_n, gates=gates, inner=inner)
        return h_n

    def recurrence_backward(self, grads: Outputs, saved: Step, arguments: Arguments) -> Gradients:
        """See `Kernels`."""
        operator: Any = torch.ops.fastrnn.recurrence_backward.default
        given = *grads[:3], saved.state.h, saved.gates, saved.inner
        return Gradients(*without_empty(operator(*given, *arguments)))


BACKEND = Cpu()
