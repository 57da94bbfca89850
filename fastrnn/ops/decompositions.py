"""Decompositions of the operators into torch's own, for tools that do not know fastrnn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .arguments import COUNT, Arguments, with_empty
from .cells import CELLS
from .ragged import DENSE

_FIXED = (
    "the decomposition of fastrnn::recurrence needs a fixed number of steps: export the module "
    "without a dynamic number of steps, or let the other tool trace the module (torch.jit.trace), "
    "which supports any number"
)


def recurrence(
    pre: Tensor,  # [T, B, G, K·H], or [N, G, K·H] with offsets
    *given: Any,
) -> tuple[Tensor, ...]:
    """Decompose into one call of torch's own loop per group; with lengths or resets, step by step.

    Nothing is saved for a backward.

    Raises:
        ValueError: the number of steps is dynamic.
    """
    arguments = Arguments(*given[:COUNT])
    ragged = arguments.ragged()
    if isinstance(ragged.steps(pre), torch.SymInt):
        raise ValueError(_FIXED)
    if ragged != DENSE or CELLS[arguments.mode].is_leaky:
        results = reference.forward(pre, arguments)._replace(gates=None, inner=None)
        return with_empty(results, like=pre)
    groups = [_group(pre, arguments, g) for g in range(arguments.weight_hh.shape[0])]
    out, *states = zip(*groups, strict=True)
    stacked = [torch.stack(out, 2), *(torch.stack(x, 1) for x in states)]
    return with_empty((*stacked, *[None] * (5 - len(stacked))), like=pre)


def _group(pre: Tensor, arguments: Arguments, g: int) -> tuple[Tensor, ...]:
    """Return a group's states [T, B, H] and its last states [B, H], by nn.RNN's own loop."""
    cell, width = CELLS[arguments.mode], pre.shape[-1]
    x, reverse = pre[:, :, g], g >= arguments.reverse_from
    # pre is already projected.
    weights = [torch.eye(width, dtype=pre.dtype, device=pre.device), arguments.weight_hh[g]]
    if arguments.unit_param is not None:
        unit_param = arguments.unit_param[g]
        zeros = unit_param.new_zeros(width)
        weights += [zeros, torch.cat((zeros[: -unit_param.shape[0]], unit_param))]
    hx: Any = arguments.h0[None, :, g]
    if arguments.c0 is not None:
        hx = hx, arguments.c0[None, :, g]
    loop: Any = getattr(torch, cell.mode.lower())
    options = len(weights) > 2, 1, 0.0, False, False, False  # whether there are biases, ...
    out, *last = loop(x.flip(0) if reverse else x, hx, weights, *options)
    return out.flip(0) if reverse else out, *(x[0] for x in last)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return a table for `ExportedProgram.run_decompositions` that removes fastrnn's operators.

    An exported program calls ``fastrnn::recurrence``, which tools such as OpenVINO cannot
    convert. After decomposition it contains torch's operators only::

        program = torch.export.export(rnn, (x,)).run_decompositions(decompositions())

    A recurrence becomes one ``aten.rnn_tanh``, ``rnn_relu``, ``lstm`` or ``gru`` per direction and
    head. With lengths or resets it is unrolled into its steps. The result is for inference.

    Returns:
        The decompositions by operator overload.

    Raises:
        ValueError: raised by `run_decompositions` if the program's number of steps is dynamic.
    """
    return {
        torch.ops.fastrnn.recurrence.default: recurrence,
        torch.ops.fastrnn.recurrence_by.default: recurrence,
        torch.ops.fastrnn.linear.default: F.linear,
    }
