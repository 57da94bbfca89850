"""A few small calls of every kernel, for tools that slow it down by a factor of 1000."""

from __future__ import annotations

import os

import torch

from benchmarks.precision import precision
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.testing import Problem, assert_close

from .kernels import KERNELS

#: (kernel, B, H): more rows than a tile has, and more units than a block has.
PLAN = (
    ("triton.rows", 2, 20),
    ("triton.single_cta", 18, 20),
    ("triton.single_cta_gluon", 18, 20),
    ("triton.grid", 18, 40),
    ("cuda.cluster", 18, 20),
    ("cuda.cluster", 9, 300),
    ("cuda.grid", 18, 40),
    ("cuda.grid", 9, 72),
    ("cuda.step", 18, 40),
)


def small(backend: str) -> None:
    """Compare the kernels of one backend with the reference, and print every call that passes.

    Raises:
        AssertionError: a result is wrong.
    """
    device = os.environ.get("FASTRNN_TEST_DEVICE", "cuda")
    by_name = {str(kernel): kernel for kernel in KERNELS if kernel.backend == backend}
    for name, batch, hidden in PLAN:
        if name not in by_name:
            continue
        kernel = by_name[name]
        for mode_name, resets in (("float32", False), ("float16", False), ("float16", True)):
            with precision(mode_name) as mode:
                problem = Problem(4, batch, 2, hidden, "lengths", dtype=mode.dtype, resets=resets)
                tensors = problem.tensors(device)
                there = (*tensors, *problem.options)
                here = (*(t.double() for t in tensors[:3]), tensors.ragged, *problem.options)
                out, h_n = reference.forward(*here)
                grads = torch.ones_like(out), torch.ones_like(h_n)
                given = [t.to(device, mode.dtype) for t in (*grads, out)]
                cases = {
                    "forward": (there, (out, h_n)),
                    "backward": (
                        (*given, *there[1:]),
                        reference.backward(*grads, out, *here[1:]),
                    ),
                }
                for direction, (arguments, expected) in cases.items():
                    if kernel.unsupported_reason(there[2], 4, direction) is not None:
                        continue
                    function = getattr(kernel.implementation, direction)
                    results = function(*arguments, **kernel.options)
                    for actual, wanted in zip(results, expected, strict=True):
                        # No sum in these calls exceeds 8.
                        assert_close(actual, wanted, problem, 8.0, mode.products)
                    what = f"{mode_name} {direction}{' with resets' if resets else ''}"
                    print(f"small: {name} B={batch} H={hidden} {what}", flush=True)
