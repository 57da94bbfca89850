"""The operators of csrc/cuda/layer.cpp for CPU tensors, with emulated kernels.

They are `torch.ops.fastrnn_emulated.layer` and `layer_backward`. `reset` limits them to a strategy,
and `launches` counts what a GPU would launch: kernels, and matrix products of torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    "cluster_resets_float32",
    "cluster_lstm_float32",
    "cluster_gru_float32",
    "cluster_projected_float32",
    "rows_float32",
)


@functools.cache
def operators() -> Any:
    """Compile and load the operators."""
    load(build_operators(INSTANCES))
    return torch.ops.fastrnn_emulated


def build_operators(instances: Sequence[str], changed: Mapping[str, str] | None = None) -> Path:
    """Compile the operators with these files in csrc/cuda/instances.

    Args:
        changed: replaced texts of files, by their paths in csrc.
    """
    sources = [FOLDER / "operators.cpp", *MACHINE]
    sources += [SOURCES / "cuda" / "instances" / f"{name}.cu" for name in instances]
    sources += [SOURCES / "stack.cpp", SOURCES / "cuda" / "layer.cpp"]
    sources += [SOURCES / "cuda" / "plan.cpp", SOURCES / "cuda" / "weight_grad.cu"]
    return build_library("operators", sources, changed)


def load(library: Path) -> None:
    """Load a library of the operators, once in a process."""
    torch.ops.load_library(library)
