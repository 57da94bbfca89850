"""The operators of csrc/cuda/layer.cpp for CPU tensors, with emulated kernels.

They are `torch.ops.fastrnn_emulated.layer` and `layer_backward`. `reset` limits them to a strategy,
and `launches` counts what a GPU would launch: kernels, and matrix products of torch.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from .build import FOLDER, MACHINE, SOURCES, build_library

#: Files in csrc/cuda/instances that are linked in.
INSTANCES = (
    "step_float64",
    "step_resets_float64",
    "step_lstm_float64",
    "step_gru_float64",
    "step_leaky_pre_float64",
    "cluster_float32",
    "cluster_lstm_float32",
)


@functools.cache
def operators() -> Any:
    """Compile and load the operators."""
    instances = [SOURCES / "cuda" / "instances" / f"{name}.cu" for name in INSTANCES]
    sources = [FOLDER / "operators.cpp", *MACHINE, *instances]
    sources += [SOURCES / "stack.cpp", SOURCES / "cuda" / "layer.cpp"]
    sources += [SOURCES / "cuda" / "plan.cpp", SOURCES / "cuda" / "weight_grad.cu"]
    torch.ops.load_library(build_library("operators", sources))
    return torch.ops.fastrnn_emulated
