"""The C++ backend: the extension's kernels for CPU tensors."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .extension import Extension

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _use_instruction_set(module: Any) -> None:
    wanted = os.environ.get("FASTRNN_CPU")
    if wanted and not module.use_instruction_set(wanted):
        choices = ", ".join(module.info()["instruction_sets"])
        raise ImportError(f"FASTRNN_CPU={wanted!r}: this processor offers only some of {choices}")


EXTENSION = Extension(
    "_C",
    error="_build_error.txt",
    remedy="run `python setup.py build_ext --inplace`, or install fastrnn again",
    prepare=_use_instruction_set,
)


def unusable() -> str | None:
    """Why the extension cannot be used, or None."""
    return EXTENSION.unusable


def detail() -> str:
    """What was built, in a line."""
    built = EXTENSION.info
    return f"{built['instruction_set']}, of {' '.join(built['instruction_sets'])} compiled in"


def refuses(tensor: Tensor) -> str | None:
    """Why the extension cannot serve a call on tensors like this one, or None."""
    if tensor.device.type != "cpu":
        return f"the C++ kernels serve CPU tensors, not {tensor.device.type!r} ones"
    if tensor.dtype not in DTYPES:
        return f"the C++ kernels have none for {tensor.dtype}"
    return None


# The extension implements the operators themselves for CPU tensors; below autograd, calling them
# is calling it.


def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator's forward; see `fastrnn.ops.reference.forward`."""
    return torch.ops.fastrnn.recurrence.default(*arguments)


def forward_(*arguments: Any) -> Tensor:
    """The operator in place; see `fastrnn.ops.reference.forward_`."""
    return torch.ops.fastrnn.recurrence_.default(*arguments)


def backward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator's backward; see `fastrnn.ops.reference.backward`."""
    return torch.ops.fastrnn.recurrence_backward.default(*arguments)
