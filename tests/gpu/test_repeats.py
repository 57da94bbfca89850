"""The same call gives the same bits a thousand times: a difference indicates a race.

Every call writes to new memory filled with NaN. Some calls run alone. Some share the device with
matrix products on another stream, which delay some thread blocks. Some run on another stream.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastrnn.testing import Problem

from .cases import modes_of
from .device import INTERPRETED, KERNELS, Kernel, precision, skip_unsupported

REPEATS = 3 if INTERPRETED else 1000

#: (T, B, G, H) and layout. They cover ragged rows, several tiles of the batch, several teams of
#: `grid`, and clusters of one block and of eight or more.
SHAPES = {
    "triton.rows": [(20, 9, 2, 45, "lengths"), (12, 150, 1, 128, "dense")],
    "triton.single_cta": [(20, 37, 2, 45, "packed"), (12, 70, 1, 128, "dense")],
    "triton.single_cta_gluon": [(20, 37, 2, 45, "packed"), (12, 5, 1, 256, "dense")],
    "triton.grid": [
        (12, 50, 2, 130, "lengths"),
        (10, 33, 1, 700, "dense"),
        (6, 200, 1, 2048, "dense"),
    ],
    "cuda.cluster": [
        (20, 37, 2, 45, "packed"),
        (30, 9, 1, 256, "lengths"),
        (30, 70, 1, 512, "dense"),
    ],
    "cuda.grid": [
        (20, 37, 2, 45, "packed"),
        (30, 50, 2, 520, "lengths"),
        (12, 200, 1, 1024, "dense"),
        (8, 33, 1, 2048, "dense"),
    ],
    "cuda.step": [(12, 37, 2, 45, "packed"), (8, 70, 1, 512, "lengths")],
}
#: Triton's kernels differ little between modes, except in their products.
CASES = [
    (kernel, mode, *shape)
    for kernel in KERNELS
    for mode in (("float32", "bfloat16") if kernel.backend == "triton" else modes_of(kernel))
    for shape in SHAPES[str(kernel)]
]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("kernel", "mode", "steps", "batch", "groups", "hidden", "layout"), CASES, ids=str
)
def test_bits(
    kernel: Kernel,
    mode: str,
    steps: int,
    batch: int,
    groups: int,
    hidden: int,
    layout: str,
    direction: str,
    device: torch.device,
) -> None:
    if INTERPRETED and mode == "bfloat16":
        pytest.skip("Triton's interpreter computes bfloat16 products wrongly")
    if INTERPRETED and batch * hidden > 5000:
        pytest.skip("Triton's interpreter would take minutes for so many programs")
    with precision(mode) as how:
        problem = Problem(steps, batch, groups, hidden, layout, dtype=how.dtype)
        skip_unsupported(kernel, problem, direction)
        run = _call(problem, kernel, direction, device)
        first = run()
        changed = torch.zeros((), dtype=torch.int64, device=device)
        load = _Load(device)
        for i in range(REPEATS):
            with load.during(i):
                for one, other in zip(run(), first, strict=True):
                    # The NaN of an element that was not written differs from itself.
                    changed += (one != other).any()
        assert changed.item() == 0, f"{changed.item()} of {REPEATS} calls gave different results"


def _call(
    problem: Problem, kernel: Kernel, direction: str, device: torch.device
) -> Callable[[], tuple[Tensor, Tensor]]:
    pre, weight_hh, h0, *ragged = problem.tensors(device)
    rest = (weight_hh, h0, *ragged, *problem.options)
    forward, backward = kernel.implementation.forward, kernel.implementation.backward
    if direction == "forward":
        return lambda: forward(pre, *rest, **kernel.options)
    out, h_n = forward(pre, *rest, **kernel.options)
    grads = torch.randn_like(out), torch.randn_like(h_n)
    return lambda: backward(*grads, out, *rest, **kernel.options)


class _Load:
    """The stream and the concurrent work of call i."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            self.main, self.side = torch.cuda.current_stream(), torch.cuda.Stream()
            self.matrix = torch.randn(1024, 1024, device=device)
            torch.cuda.synchronize()

    def during(self, i: int) -> torch.cuda.StreamContext:
        if not self.cuda:
            return torch.cuda.stream(None)
        self.main.wait_stream(self.side)
        if i % 4 == 1:
            with torch.cuda.stream(self.side):
                self.matrix @ self.matrix
        if i % 4 == 2:
            self.side.wait_stream(self.main)
            return torch.cuda.stream(self.side)
        return torch.cuda.stream(self.main)
