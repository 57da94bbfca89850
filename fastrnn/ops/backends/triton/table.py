"""Which kernel serves a call: one table, read from the top.

A kernel's limits come from what it keeps where. `single_cta` keeps a group's W_hh in the shared
memory of one multiprocessor, `rows` in its registers, `grid` in the shared memory of all of them
or, beyond that, in L2. `python -m tools.kernel_stats` prints what each costs.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

#: How products are computed. "half": float16 or bfloat16 operands. "tf32": float32 operands rounded
#: to 10 bits. "float32": float32 throughout, or three tf32 products that give the same precision.
MODES = ("half", "tf32", "float32")

#: The oldest compute capability served: the first with tf32, bfloat16 and asynchronous copies.
CAPABILITY = (8, 0)


class Sizes(NamedTuple):
    """What the choice of a kernel, and of its configuration, may depend on."""

    batch: int
    groups: int
    hidden: int
    mode: str  #: one of MODES
    capability: tuple[int, int] = CAPABILITY
    shared: int = 166912  #: bytes of shared memory a program may use
    processors: int = 108  #: multiprocessors of the device
    wgmma: bool = False  #: whether the device has wgmma, and the installed Triton Gluon, to use it


class Launch(NamedTuple):
    """What a launcher needs besides the tensors."""

    sizes: Sizes
    steps: int
    reverse_from: int
    relu: bool
    fast: bool  #: take the hardware's tanh
    device: torch.device

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        """The kernels' sizes that are known only at run time; `tile.SIZES` names them."""
        return self.steps, self.sizes.batch, self.sizes.groups, self.reverse_from


class Row(NamedTuple):
    """A kernel serves a call that is within all the limits of its row."""

    kernel: str
    modes: tuple[str, ...]
    hidden: int  #: the largest H
    one_wave: bool = False  #: the rows of all groups run at once: see `fit_at_once`
    shared: int = 0  #: bytes of shared memory a program must have
    wgmma: bool = False  #: whether that is what it is made of
    width: int = 2**25  #: the largest G·H; offsets within a tile are 32 bits


KB = 1024

TABLE = (
    # The fastest step of all where a row's W_hh fits into registers: measured on an H200.
    Row("rows", MODES, hidden=128, one_wave=True),
    # W_hh in registers: two thirds of the instructions a step, and no reading of it.
    Row("single_cta_gluon", ("half",), hidden=256, shared=132 * KB, wgmma=True),
    Row("single_cta", ("half", "tf32"), hidden=128, shared=96 * KB),
    Row("single_cta", ("float32",), hidden=64),
    Row("single_cta", ("float32",), hidden=128, shared=144 * KB),
    Row("single_cta", ("half",), hidden=256, shared=144 * KB),
    # Whatever H is. Where not even a tile's programs all run at once, it launches every step anew.
    Row("grid", MODES, hidden=2**31 - 1, width=2**62),
)

#: The kernels that passed every check on hardware, with the compute capability; `auto` takes no
#: other. The record: benchmarks/results/nvidia-h200/2026-11-26t10-14-2345bff-check.json.
VERIFIED = {(kernel, (9, 0)) for kernel in ("rows", "single_cta", "single_cta_gluon", "grid")}

#: The kernels that were measured to be faster than those of csrc/cuda where the table has them, in
#: the mean over shapes: docs/kernels.md has the figures.
FASTEST = ("rows", "single_cta_gluon")

#: From so many steps on they are. The loop is faster, but a call by Triton takes some 65 µs longer,
#: and a step 0.3 to 0.8 µs less, on an H200.
FASTEST_FROM = 256


def fit_at_once(sizes: Sizes) -> bool:
    """Whether all programs of `rows` run at once: one of H = 128 fills a multiprocessor."""
    padded = power_of_two(sizes.hidden)
    return sizes.batch * sizes.groups * padded <= sizes.processors * 128


@functools.lru_cache(maxsize=1024)
def choose(sizes: Sizes) -> str:
    """The kernel that serves a call of these sizes: the first row that has room for it."""
    for row in TABLE:
        if (
            sizes.mode in row.modes
            and sizes.hidden <= row.hidden
            and (not row.one_wave or fit_at_once(sizes))
            and row.shared <= sizes.shared
            and row.wgmma <= sizes.wgmma
            and sizes.groups * sizes.hidden <= row.width
        ):
            return row.kernel
    raise ValueError(f"no kernel serves H = {sizes.hidden}")


#: tl.dot's input_precision; half precision has but one.
PRECISION = {"half": "ieee", "tf32": "tf32", "float32": "tf32x3"}

#: Options of the compiler for every kernel. Triton 3.9 announces that 3.10 will fuse a product and
#: a sum into one instruction only where it is asked to.
OPTIONS = {"enable_fp_fusion": True}


def power_of_two(n: int, least: int = 16) -> int:
    """The smallest power of two that is at least n and `least`."""
    return max(least, 1 << (n - 1).bit_length())
