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

from . import layer, linear  # noqa: F401 (they define their operators)
from ._when_imported import when_imported
from .composite_layer import INPUT, WEIGHT_HH, WEIGHT_IH


def _recurrence(pre: Sequence[int], weight_hh: Sequence[int], *_: Any, **__: Any) -> int:
    """Count 2·H operations per element of pre [T, B, G, K·H] or [N, G, K·H]."""
    return 2 * prod(pre) * weight_hh[-1]


def _recurrence_backward(grad_out: Sequence[int], *given: Any, **_: Any) -> int:
    """Count 2·K·H operations per element of grad_out [T, B, G, H] or [N, G, H]."""
    weight_hh = given[5]  # [G, K·H, H]
    return 2 * prod(grad_out) * int(weight_hh[-2])


def _linear(input: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(input) * weight[0]


def _of_row(weights: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Count the operations of a row's products with weight_ih and with weight_hh."""
    weight_ih, weight_hh, *_ = weights
    return 2 * prod(weight_ih), 2 * prod(weight_hh)


def _layer(input: Sequence[int], weights: Sequence[Sequence[int]], *given: Any, **_: Any) -> int:
    """Count both products of every row, layer and direction."""
    *_rest, num_layers, directions, _products, _save = given
    count = len(weights) // (num_layers * directions)
    runs = [weights[k : k + count] for k in range(0, len(weights), count)]
    return prod(input[:-1]) * sum(sum(_of_row(run)) for run in runs)


def _layer_backward(*given: Any, **_: Any) -> int:
    """Count the products of every step, and of the gradients that `needs` names."""
    input, weights, h0, _c0, lengths = given[5:10]
    *_rest, num_layers, directions, _products, needs = given
    rows, batch = prod(input[:-1]), input[-2] if lengths is None else lengths[0]
    count = len(weights) // (num_layers * directions)
    total = 0
    for k in range(num_layers * directions):
        of_input, of_state = _of_row(weights[k * count : (k + 1) * count])
        total += rows * of_state
        if needs & INPUT or k >= directions:
            total += rows * of_input
        if needs & WEIGHT_IH:
            total += rows * of_input
        if needs & WEIGHT_HH:  # an initial state of zeros has no product
            total += (rows - batch * (h0 is None)) * of_state
    return total


def _register(module: ModuleType) -> None:
    operators = torch.ops.fastrnn
    forward = [operators.recurrence, operators.recurrence_by]
    backward = [operators.recurrence_backward, operators.recurrence_by_backward]
    module.register_flop_formula(forward)(_recurrence)
    module.register_flop_formula(backward)(_recurrence_backward)
    module.register_flop_formula([operators.linear])(_linear)
    module.register_flop_formula([operators.layer])(_layer)
    module.register_flop_formula([operators.layer_backward])(_layer_backward)


# Importing the counter here would import Triton and double the time of `import fastrnn`.
when_imported("torch.utils.flop_counter", _register)
