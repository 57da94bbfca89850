"""The device and the kernels of the GPU tests."""

import os

import pytest
import torch

from benchmarks.precision import FLOAT64, MODES, precision
from fastrnn.ops.backends import cuda, triton
from fastrnn.testing import Problem
from tools.gpu_validation.kernels import BACKENDS, CUDA, KERNELS, TRITON, Kernel, call_of

__all__ = [
    "BACKENDS",
    "CUDA",
    "DEVICE",
    "FLOAT64",
    "INTERPRETED",
    "KERNELS",
    "MODES",
    "TRITON",
    "Kernel",
    "precision",
    "skip_unsupported",
    "unavailable_reason_of",
]

#: FASTRNN_TEST_DEVICE=cpu with TRITON_INTERPRET=1 runs the tests that do not need a GPU.
DEVICE = torch.device(os.environ.get("FASTRNN_TEST_DEVICE", "cuda"))
INTERPRETED = DEVICE.type == "cpu"


def unavailable_reason_of(about: str, mode: str) -> str | None:
    """Return why a kernel, or a whole backend, cannot run here, or None."""
    if about.startswith("cuda"):
        reason = (
            "the CUDA kernels need a CUDA GPU" if INTERPRETED else cuda.BACKEND.unavailable_reason()
        )
        if reason is not None or about == "cuda":
            return reason
        # Features missing even for the smallest call, such as clusters before sm_90.
        state = torch.empty(1, 1, 1, dtype={**MODES, **FLOAT64}[mode].dtype, device=DEVICE)
        return Kernel(*about.split(".")).unsupported_reason(state, 1, "forward")
    if about != "triton.single_cta_gluon":
        return None
    if MODES[mode].products != "half":
        return "single_cta_gluon computes in half precision"
    if INTERPRETED or not triton.sizes_of(call_of(torch.empty(1, 1, 1, device=DEVICE), 1)).wgmma:
        return "single_cta_gluon needs compute capability 9.0 and Triton's Gluon"
    return None


def skip_unsupported(kernel: Kernel, problem: Problem, direction: str) -> None:
    """Skip problems that do not fit this GPU.

    For Triton's kernels of nn.RNN's cells the table is not consulted.
    """
    if kernel.backend != "cuda" and kernel.kind == "RNN":
        return
    shape = problem.batch, problem.groups, problem.hidden
    state = torch.empty(shape, dtype=problem.dtype, device=DEVICE)
    reason = kernel.unsupported_reason(state, problem.steps, direction)
    if reason is not None:
        pytest.skip(reason)
