"""The operators with random problems of every cell."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastrnn.ops.arguments import Arguments
from fastrnn.testing import Problem

#: The kinds of cells of `Problem`.
KINDS = ["RNN", "LSTM", "GRU"]

#: The kinds of FusedRNN's cells with a leak.
LEAKY = ["LEAKY", "LEAKY_PRE"]


def run(pre: Tensor, arguments: Arguments) -> list[Tensor]:
    """Return the results of the operator that have gradients: out, h_n and c_n, if there is one."""
    results = torch.ops.fastrnn.recurrence(pre, *arguments, False)
    return [x for x in results[:3] if x.dim() > 1]


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
