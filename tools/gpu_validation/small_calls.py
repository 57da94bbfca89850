"""A few small calls of every kernel, for tools that slow it down by a factor of 1000."""

from __future__ import annotations

import copy
import itertools
import os
from typing import Any

import torch

import fastrnn
from benchmarks.precision import precision
from fastrnn.ops import reference as specification
from fastrnn.ops.arguments import Outputs, State
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.cells.base import Step
from fastrnn.testing import Problem, assert_close

from .kernels import CUDA_CELLS, KERNELS, TRITON_CELLS, Kernel

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

    The kernels of cells that save gates run too.

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
    for kernel in TRITON_CELLS + CUDA_CELLS:
        if kernel.backend == backend:
            small_cell(kernel, device)
        small_layers(device)


def small_cell(kernel: Kernel, device: str) -> None:
    """Run small calls of a kernel of a cell that saves gates, with resets, forward and backward."""
    with precision("float16") as mode:
        problem = Problem(
            *(4, 18, 2, 40), "lengths", dtype=mode.dtype, resets=True, kind=kernel.kind
        )
        pre, arguments = problem.inputs()
        results = specification.forward(pre, arguments)
        grads = Outputs(*(x if x is None else torch.ones_like(x) for x in results[:3]))
        saved = Step(State(results.out), results.gates, results.inner)
        here = {
            "forward": (pre, arguments, True),
            "backward": (grads, saved, arguments),
        }
        expected = {
            "forward": results,
            "backward": specification.backward(grads, saved, arguments),
        }
        for direction, given in here.items():
            if kernel.unsupported_reason(arguments.h0.to(device), 4, direction) is not None:
                continue
            name = "recurrence" if direction == "forward" else "recurrence_backward"
            function = getattr(kernel.implementation, name)
            actual = function(*moved(given, device), **kernel.options)
            for got, wanted in zip(actual, expected[direction], strict=True):
                if wanted is not None:
                    # No sum in these calls exceeds 8. The reference rounds once more.
                    assert_close(got.cpu(), wanted.double(), problem, 16.0, mode.products)
            print(f"small: {kernel} {direction}", flush=True)


def small_layers(device: str) -> None:
    """Run layers by each kernel that only they use, and stacks of layers."""
    kinds = fastrnn.FusedRNN, fastrnn.FusedGRU
    # Layers, H, T. The blocks of a cluster share the sums of 300 steps.
    cases = (1, 20, 300), (1, 150, 6), (3, 8, 6)
    for kind, (count, hidden, steps) in itertools.product(kinds, cases):
        layer = kind(5, hidden, num_layers=count, bidirectional=count == 1)
        x, lengths = torch.randn(steps, 3, 5), torch.tensor([steps, steps - 2, 0])
        found = []
        for place, backend in (("cpu", "auto"), (device, "cuda" if device == "cuda" else "auto")):
            there = copy.deepcopy(layer).to(place)
            with precision("float32"), fastrnn.use_backend(backend):
                output, _ = there(x.to(place), lengths=lengths.to(place))
                output.sin().sum().backward()
            found.append([output, *(weight.grad for weight in there.parameters())])
        for wanted, got in zip(*found, strict=True):
            assert wanted is not None
            assert got is not None
            torch.testing.assert_close(got.cpu(), wanted, rtol=1e-3, atol=1e-3)
        print(f"small: cuda {kind.__name__}, H={hidden} layers={count}", flush=True)


def moved(given: Any, device: str | torch.device) -> Any:
    """Move all tensors of a nested list, tuple or NamedTuple."""
    if isinstance(given, torch.Tensor):
        return given.to(device)
    if not isinstance(given, tuple | list):
        return given
    there = [moved(x, device) for x in given]
    return given._make(there) if hasattr(given, "_make") else type(given)(there)
