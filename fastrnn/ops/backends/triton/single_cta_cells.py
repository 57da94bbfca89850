"""single_cta for cells that save gates: one program holds all of a group's W_hh in shared memory.

As in `single_cta`, a tile of the batch is the left operand of a product, here of one for each gate.
"""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from . import cell_loop
from .single_cta import programs
from .table import OPTIONS, PRECISION, Launch, Sizes, power_of_two
from .tile import SIZES

forward = triton.jit(do_not_specialize=SIZES)(cell_loop.forward)
backward = triton.jit(do_not_specialize=SIZES)(cell_loop.backward)


def configuration(sizes: Sizes) -> dict[str, Any]:
    """Return the compile-time constants and compiler options for a call of these sizes.

    A tile has 16 rows, the minimum for tensor cores. Several gates have twice the warps of one, so
    that their values fit into registers.
    """
    padded = power_of_two(sizes.hidden)
    warps = padded // (16 if sizes.gates == 1 else 8)
    return {
        **OPTIONS,
        "H": sizes.hidden,
        "PADDED": padded,
        "K": sizes.gates,
        "ROWS": 16,
        "PRECISION": PRECISION[sizes.mode],
        "num_warps": warps,
        "num_stages": 1,
        "maxnreg": min(255, 2048 // warps),
    }


def launch_forward(call: Launch, *tensors: Tensor | None) -> None:
    """Fill the results; the tensors are the kernel's, in its order."""
    options = configuration(call.sizes)
    grid = programs(call.sizes, options)
    forward[grid](*tensors, *call.arguments, **call.flags, **options)


def launch_backward(call: Launch, *tensors: Tensor | None) -> None:
    """Fill the gradients; the tensors are the kernel's, in its order."""
    options = configuration(call.sizes)
    grid = programs(call.sizes, options)
    backward[grid](*tensors, *call.arguments, **call.flags, **options)
