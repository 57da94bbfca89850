"""The table that selects a kernel for a call; the first matching row wins.

A kernel's limits follow from where it keeps W_hh. `single_cta` keeps a group's W_hh in the shared
memory of one multiprocessor, `rows` in its registers, and `grid` in the shared memory of all
multiprocessors or, for larger sizes, in L2. `python -m tools.kernel_stats` prints the cost of
each.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

#: The precision of products. "half": float16 or bfloat16 operands. "tf32": float32 operands rounded
#: to 10 bits. "float32": float32 throughout, or three tf32 products with the same precision.
MODES = ("half", "tf32", "float32")

#: The oldest supported compute capability: the first with tf32, bfloat16 and asynchronous copies.
CAPABILITY = (8, 0)


class Sizes(NamedTuple):
    """The sizes and limits that the choice of a kernel and of its configuration may depend on."""

    batch: int
    groups: int
    hidden: int
    mode: str  #: one of MODES
    capability: tuple[int, int] = CAPABILITY
    shared: int = 166912  #: the maximum bytes of shared memory per program
    processors: int = 108  #: the number of multiprocessors
    wgmma: bool = False  #: whether the device has wgmma and the installed Triton has Gluon
    gates: int = 0  #: the number of gates that the cell saves: 0 for nn.RNN's cells


class Launch(NamedTuple):
    """The arguments of a launcher other than the tensors."""

    sizes: Sizes
    steps: int
    reverse_from: int
    relu: bool
    fast: bool  #: use the hardware's approximate tanh
    device: torch.device
    cell: str = "RNN"  #: the CELL of `cells`, if it saves gates

    @property
    def flags(self) -> dict[str, Any]:
        """The constants of the kernels of cells that save gates."""
        return {"CELL": self.cell, "RELU": self.relu, "FAST": self.fast}

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        """The kernels' runtime sizes; `tile.SIZES` names them."""
        return self.steps, self.sizes.batch, self.sizes.groups, self.reverse_from


class Row(NamedTuple):
    """The limits of a kernel: it serves a call that is within all of them."""

    kernel: str
    modes: tuple[str, ...]
    hidden: int  #: the largest H
    one_wave: bool = False  #: all rows of all groups must run at once: see `fit_at_once`
    shared: int = 0  #: bytes of shared memory that a program needs
    wgmma: bool = False  #: whether it needs wgmma
    width: int = 2**25  #: the largest G·H, or G·K·H; offsets within a tile have 32 bits
    gates: tuple[int, ...] = (0,)  #: the numbers of saved gates of its cells


KB = 1024

TABLE = (
    # The fastest step where W_hh fits in the registers of a row's program: measured on an H200.
    Row("rows", MODES, hidden=128, one_wave=True),
    # W_hh stays in registers: two thirds of the instructions per step, and no loads of W_hh.
    Row("single_cta_gluon", ("half",), hidden=256, shared=132 * KB, wgmma=True),
    Row("single_cta", ("half", "tf32"), hidden=128, shared=96 * KB),
    Row("single_cta", ("float32",), hidden=64),
    Row("single_cta", ("float32",), hidden=128, shared=144 * KB),
    Row("single_cta", ("half",), hidden=256, shared=144 * KB),
    # Any H. If not even the programs of one tile fit on the device at once, one launch per step.
    Row("grid", MODES, hidden=2**31 - 1, width=2**62),
    # Cells that save gates, in the same order: the leaky ones, then LSTM and GRU. In waves, `rows`
    # serves what the others do not.
    Row("rows", MODES, hidden=128, one_wave=True, gates=(1,)),
    Row("single_cta", ("half", "tf32"), hidden=128, shared=96 * KB, gates=(1,)),
    Row("rows", MODES, hidden=128, width=2**62, gates=(1,)),
    Row("rows", MODES, hidden=64, one_wave=True, gates=(3, 4)),
    Row("single_cta", ("half", "tf32"), hidden=64, shared=96 * KB, gates=(3, 4)),
    Row("single_cta", ("half",), hidden=128, shared=152 * KB, gates=(3, 4)),
    Row("rows", MODES, hidden=64, width=2**62, gates=(3, 4)),
)

#: The kernels that also serve cells which save gates.
CELL_KERNELS = frozenset(row.kernel for row in TABLE if max(row.gates) > 0)

#: The kernels that passed every check on hardware, with the compute capability; `auto` uses no
#: other. The record: benchmarks/results/nvidia-h200/2026-11-26t10-14-2345bff-check.json.
VERIFIED = {(kernel, (9, 0)) for kernel in ("rows", "single_cta", "single_cta_gluon", "grid")}

#: The kernels that were measured to be faster than those of csrc/cuda for the calls that the table
#: assigns to them, on average over shapes: docs/kernels.md has the measurements.
FASTEST = ("rows", "single_cta_gluon")

#: The number of steps from which they are faster. On an H200 a call through Triton takes about
#: 65 µs longer, and each step 0.3 to 0.8 µs less.
FASTEST_FROM = 256


def fit_at_once(sizes: Sizes) -> bool:
    """Whether all programs of `rows` run at once: one with H = 128 fills a multiprocessor."""
    padded = power_of_two(sizes.hidden)
    return sizes.batch * sizes.groups * padded <= sizes.processors * 128


@functools.lru_cache(maxsize=1024)
def choose(sizes: Sizes) -> str:
    """Return the kernel for a call of these sizes: the first row whose limits it satisfies."""
    for row in TABLE:
        if sizes.hidden <= row.hidden and _serves(row, sizes):
            return row.kernel
    raise ValueError(f"no kernel serves H = {sizes.hidden}")


def unserved_reason(cell: str, sizes: Sizes) -> str | None:
    """Why no kernel serves a call of these sizes with a cell, or None."""
    limit = max(row.hidden for row in TABLE if _serves(row, sizes))
    if sizes.hidden <= limit:
        return None
    return (
        f"the Triton kernels for {cell} keep W_hh on one multiprocessor, which holds H <= {limit} "
        f"in this precision, not H = {sizes.hidden}"
    )


def _serves(row: Row, sizes: Sizes) -> bool:
    """Whether a call is within all limits of a row except that of H."""
    return (
        sizes.gates in row.gates
        and sizes.mode in row.modes
        and (not row.one_wave or fit_at_once(sizes))
        and row.shared <= sizes.shared
        and row.wgmma <= sizes.wgmma
        and max(1, sizes.gates) * sizes.groups * sizes.hidden <= row.width
    )


#: The input_precision of tl.dot; half precision has only one.
PRECISION = {"half": "ieee", "tf32": "tf32", "float32": "tf32x3"}

#: Compiler options for every kernel. Triton 3.9 announces that 3.10 will fuse multiplications and
#: additions only on request.
OPTIONS = {"enable_fp_fusion": True}


def power_of_two(n: int, least: int = 16) -> int:
    """Return the smallest power of two that is at least n and at least `least`."""
    return max(least, 1 << (n - 1).bit_length())
