"""How many floating point operations an operator is, for torch.utils.flop_counter.

A multiplication and an addition are two, as torch counts; of a recurrence only the products with
W_hh count, T·B·G of them forward and as many backward. So a layer has nn.RNN's numbers. Given an
hx that needs no gradient it counts one step more: the backward computes that gradient, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch

from .._when_imported import when_imported
from . import linear  # noqa: F401 (defines its operator)


def _recurrence(pre: Sequence[int], weight_hh: Sequence[int], *_: Any, **__: Any) -> int:
    """pre [T, B, G, H] or [N, G, H]: 2·H for each of its elements."""
    return 2 * prod(pre) * weight_hh[-1]


def _recurrence_backward(
    grad_out: Sequence[int], grad_h_n: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * prod(grad_out) * grad_h_n[-1]


def _linear(input: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(input) * weight[0]


def _register(module: ModuleType) -> None:
    operators = torch.ops.fastrnn
    forward = [operators.recurrence, operators.recurrence_by]
    backward = [operators.recurrence_backward, operators.recurrence_by_backward]
    module.register_flop_formula(forward)(_recurrence)
    module.register_flop_formula(backward)(_recurrence_backward)
    module.register_flop_formula([operators.linear])(_linear)


# Importing the counter here would import Triton, and double the time of `import fastrnn`.
when_imported("torch.utils.flop_counter", _register)
