"""The C++ extension: the only file that loads it. It remembers why it could not."""

from __future__ import annotations

import functools
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._version import __version__

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

#: Left by the build when there is no extension: the reason in the first line, then the whole log.
BUILD_ERROR = Path(__file__).resolve().parents[1] / "_build_error.txt"


@functools.cache
def unusable() -> str | None:
    """Why the extension cannot be used, or None. Loads it on first use, and registers its ops."""
    try:
        built = info()["version"]
    except ModuleNotFoundError as error:
        if error.name != "fastrnn._C":
            return str(error)
        return f"not built: {_build_error()}"
    except (ImportError, OSError) as error:
        return f"built, but cannot be loaded: {error}"
    if built != __version__:
        return f"built for fastrnn {built}, but this is {__version__}: build it again"
    return None


def is_loaded() -> bool:
    """Whether the extension is in this process, usable or not."""
    return sys.modules.get("fastrnn._C") is not None


@functools.cache
def info() -> dict[str, Any]:
    """What was built: versions, compiler, instruction sets, CUDA archs."""
    extension = import_module("fastrnn._C")
    wanted = os.environ.get("FASTRNN_CPU")
    if wanted and not extension.use_instruction_set(wanted):
        choices = ", ".join(extension.info()["instruction_sets"])
        raise ImportError(f"FASTRNN_CPU={wanted!r}: this processor offers only some of {choices}")
    return dict(extension.info())


def detail() -> str:
    """What was built, in a line."""
    built = info()
    return f"{built['instruction_set']}, of {' '.join(built['instruction_sets'])} compiled in"


def _build_error() -> str:
    try:
        return BUILD_ERROR.read_text().partition("\n")[0]
    except FileNotFoundError:
        return "run `python setup.py build_ext --inplace`, or install fastrnn again"


def refuses(tensor: Tensor) -> str | None:
    """Why the extension cannot serve a call on tensors like this one, or None."""
    if tensor.device.type != "cpu":
        return f"the extension has no kernels for {tensor.device.type!r} tensors"
    if tensor.dtype not in DTYPES:
        return f"the extension has no kernels for {tensor.dtype}"
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
