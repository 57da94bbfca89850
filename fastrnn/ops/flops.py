"""FLOP formulas of the operators for torch.utils.flop_counter.

As in torch, a multiplication and an addition count as two operations. A recurrence counts only its
products with W_hh: T·B·G in the forward, and as many in the backward. So a layer has the same count
as torch's. If hx is given and needs no gradient, the count is one step higher than torch's: the
backward computes that gradient as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch

from . import linear  # noqa: F401 (defines its operator)
from ._when_imported import when_imported


def _recurrence(pre: Sequence[int], weight_hh: Sequence[int], *_: Any, **__: Any) -> int:
    """Count 2·H operations per element of pre [T, B, G, K·H] or [N, G, K·H]."""
    return 2 * prod(pre) * weight_hh[-1]


def _recurrence_backward(grad_out: Sequence[int], *given: Any, **_: Any) -> int:
    """Count 2·K·H operations per element of grad_out [T, B, G, H] or [N, G, H]."""
    weight_hh = given[5]  # [G, K·H, H]
    return 2 * prod(grad_out) * int(weight_hh[-2])


def _linear(input: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(input) * weight[0]


def _register(module: ModuleType) -> None:
    operators = torch.ops.fastrnn
    forward = [operators.recurrence, operators.recurrence_by]
    backward = [operators.recurrence_backward, operators.recurrence_by_backward]
    module.register_flop_formula(forward)(_recurrence)
    module.register_flop_formula(backward)(_recurrence_backward)
    module.register_flop_formula([operators.linear])(_linear)


# Importing the counter here would import Triton and double the time of `import fastrnn`.
when_imported("torch.utils.flop_counter", _register)
