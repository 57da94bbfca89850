"""rows for cells that save gates: one program per row of the batch, with W_hh in registers.

As in `rows`, each thread holds part of one unit's weights, here of all its gates. So the threads
that sum a unit's gates also compute its step, and exchange only h.
"""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from . import cell_loop
from .table import OPTIONS, Launch, Sizes, power_of_two
from .tile import SIZES

#: Pointers that must not be specialized on alignment: see `rows`.
FORWARD_TENSORS = ["pre", "weight_hh", "h0", "c0", "unit_param", "reset_h", "reset_c"]
FORWARD_TENSORS += ["out", "h_n", "c_n", "gates", "inner"]
BACKWARD_TENSORS = ["grad_out", "grad_h_n", "grad_c_n", "gates", "inner", "states", "state_0"]
BACKWARD_TENSORS += ["start", "weight_hh", "unit_param", "grad_pre", "grad_param"]
BACKWARD_TENSORS += ["grad_h0", "grad_c0", "grad_reset_h", "grad_reset_c"]

forward = triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=FORWARD_TENSORS)(
    cell_loop.forward
)
backward = triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=BACKWARD_TENSORS)(
    cell_loop.backward
)


def configuration(sizes: Sizes) -> dict[str, Any]:
    """Return the compile-time constants and compiler options for a call of these sizes.

    One warp per 8 units, as in `rows`. With four gates and H = 64, or with one and H = 128, a
    thread holds 64 or 32 elements of W_hh. The limit of registers lets as many programs run at once
    as `fit_at_once` counts.
    """
    padded = power_of_two(sizes.hidden)
    return {
        **OPTIONS,
        "H": sizes.hidden,
        "PADDED": padded,
        "K": sizes.gates,
        "ROWS": 1,
        "PRECISION": "ieee",
        "num_warps": padded // 8,
        "num_stages": 1,
        "maxnreg": 128,
    }


def launch_forward(call: Launch, pre: Tensor, weight_hh: Tensor, *tensors: Tensor | None) -> None:
    """Fill the results; the tensors are the kernel's, in its order, except for the transpose."""
    # Adjacent threads hold adjacent units; the transpose makes them adjacent in memory too.
    hidden = call.sizes.hidden
    weight_t = weight_hh.view(-1, hidden, hidden).mT.contiguous()
    options = {**call.flags, **configuration(call.sizes)}
    forward[_programs(call)](pre, weight_t, *tensors, *call.arguments, **options)


def launch_backward(call: Launch, *tensors: Tensor | None) -> None:
    """Fill the gradients; the tensors are the kernel's, in its order."""
    options = {**call.flags, **configuration(call.sizes)}
    backward[_programs(call)](*tensors, *call.arguments, **options)


def _programs(call: Launch) -> tuple[int]:
    """Return the launch grid: one program per group and row of the batch."""
    return (call.sizes.batch * call.sizes.groups,)
