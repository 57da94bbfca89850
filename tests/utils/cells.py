"""The operators with random problems of every cell."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops.arguments import Arguments
from fastrnn.ops.backends import dispatch
from fastrnn.ops.cells import CODES
from fastrnn.testing import Problem

#: The kinds of cells of `Problem`.
KINDS = ["RNN", "LSTM", "GRU"]

#: The modes that the CPU kernels serve.
SERVED = ("RNN_TANH", "RNN_RELU")


def backend(mode: str) -> str:
    """Return the backend that tests of a cell select for CPU tensors."""
    return "auto" if mode in SERVED else "reference"


def operator(mode: str, name: str = "recurrence") -> tuple[Any, tuple[int, ...]]:
    """Return ``fastrnn::name``, for CPU tensors, and the arguments that follow the common ones.

    The reference runs the cells that the CPU kernels do not serve.
    """
    operators = torch.ops.fastrnn
    if mode in SERVED:
        return getattr(operators, name).default, ()
    by_number = getattr(operators, name.replace("recurrence", "recurrence_by")).default
    return by_number, (dispatch.NAMES.index("reference"),)


def run(pre: Tensor, arguments: Arguments) -> list[Tensor]:
    """Return the results of the operator that have gradients: out, h_n and c_n, if there is one."""
    mode = list(CODES)[arguments.mode]
    function, more = operator(mode)
    return [x for x in function(pre, *arguments, False, *more)[:3] if x.dim() > 1]


def leaves(
    problem: Problem, device: torch.device | str = "cpu"
) -> tuple[list[Tensor], Callable[..., tuple[Tensor, Arguments]]]:
    """Return the real inputs, which require gradients, and a function that completes them.

    The function takes such tensors, and returns pre and `Arguments`.
    """
    pre, arguments = problem.inputs(device)
    given = [pre, *arguments]
    real = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.is_floating_point()]

    def complete(*tensors: Tensor) -> tuple[Tensor, Arguments]:
        filled = list(given)
        for i, x in zip(real, tensors, strict=True):
            filled[i] = x
        pre, *rest = filled
        return pre, Arguments(*rest)

    return [given[i].requires_grad_() for i in real], complete
