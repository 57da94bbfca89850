"""The device the tests of this folder run on."""

import os

import torch

from benchmarks.modes import MODES, precision
from fastrnn.ops import triton

__all__ = ["DEVICE", "INTERPRETED", "KERNELS", "MODES", "precision", "unable"]

#: With FASTRNN_TEST_DEVICE=cpu and TRITON_INTERPRET=1 what can be is tried without a GPU.
DEVICE = torch.device(os.environ.get("FASTRNN_TEST_DEVICE", "cuda"))
INTERPRETED = DEVICE.type == "cpu"

KERNELS = ("rows", "single_cta", "single_cta_gluon", "grid")


def unable(kernel: str, mode: str) -> str | None:
    """Why a kernel cannot be tried here at all, or None."""
    if kernel != "single_cta_gluon":
        return None
    if MODES[mode].products != "half":
        return "single_cta_gluon computes in half precision"
    if INTERPRETED or not triton.sizes_of(torch.empty(1, 1, 1, device=DEVICE)).wgmma:
        return "single_cta_gluon needs compute capability 9.0 and Triton's Gluon"
    return None
