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
    pre: Tensor,  # [T, B, G, H], or [N, G, H] with offsets
    *given: Any,
) -> tuple[Tensor, ...]:
    """Decompose into one rnn_tanh or rnn_relu per group; with lengths or resets, step by step.

    Raises:
        ValueError: the number of steps is dynamic.
    """
    arguments = Arguments(*given[:COUNT])
    ragged, h0 = arguments.ragged(), arguments.h0
    if isinstance(ragged.steps(pre), torch.SymInt):
        raise ValueError(_FIXED)
    if ragged != DENSE:
        return with_empty(reference.forward(pre, arguments), like=pre)
    loop: Any = getattr(torch, CELLS[arguments.mode].mode.lower())
    groups, size, _ = arguments.weight_hh.shape
    identity = torch.eye(size, dtype=pre.dtype, device=pre.device)  # pre is already projected
    out, h_n = [], []
    for g in range(groups):
        reverse = g >= arguments.reverse_from
        x = pre[:, :, g].flip(0) if reverse else pre[:, :, g]
        weights = [identity, arguments.weight_hh[g]]
        states, last = loop(x, h0[None, :, g], weights, False, 1, 0.0, False, False, False)
        out.append(states.flip(0) if reverse else states)
        h_n.append(last[0])
    return with_empty((torch.stack(out, 2), torch.stack(h_n, 1), None, None, None), like=pre)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return a table for `ExportedProgram.run_decompositions` that removes fastrnn's operators.

    An exported program calls ``fastrnn::recurrence``, which tools such as OpenVINO cannot
    convert. After decomposition it contains torch's operators only::

        program = torch.export.export(rnn, (x,)).run_decompositions(decompositions())

    A recurrence becomes one ``aten.rnn_tanh`` or ``aten.rnn_relu`` per direction and head. With
    lengths or resets it is unrolled into its steps. The result is for inference.

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
