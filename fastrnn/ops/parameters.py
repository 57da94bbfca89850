"""A layer's parameters in the form of the operators, and their gradients in the form of nn.RNN's.

nn.RNN's classes store the gates of a layer one after the other: a weight's rows are [K, n, H/n],
with n heads. The operators take groups, the heads of all directions, each with its K gates: rows
[D, n, K, H/n]. Biases that a step adds before anything else are merged into the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .cells.base import Cell


def merge_directions(
    weights: Sequence[Tensor], directions: int, cell: type[Cell], with_bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Merge a layer's weights.

    They are per direction weight_ih, weight_hh, two biases or none, and a leak [H] if the cell has
    one.

    Return weight_ih [D·K·H, I], weight_hh [G, K·H/n, H/n], the bias of pre [D·K·H], unless it is
    not wanted, and the cell's unit_param [G, H/n], where G = D·n: a group is a head of a direction.
    """
    if directions > 1:
        half = len(weights) // 2
        parts = weights[:half], weights[half:]
        both = (merge_directions(part, 1, cell, with_bias) for part in parts)
        merged: Any = (None if x[0] is None else torch.cat(x) for x in zip(*both, strict=True))
        weight_ih, weight_hh, bias, unit_param = merged
        return weight_ih, weight_hh, bias, unit_param
    weight_ih, weight_hh = weights[0], weights[1]
    if weight_hh.dim() == 2:
        weight_hh = weight_hh.unsqueeze(0)
    if not cell.saves:  # nn.RNN's cells have one gate and no unit_param
        bias = weights[2] + weights[3] if with_bias and len(weights) > 2 else None
        return weight_ih, weight_hh, bias, None
    bias = unit_param = leak = None
    if cell.is_leaky:
        *weights, leak = weights
    if len(weights) > 2:
        if cell.has_unit_param and leak is None:
            unit_param = _last_gate(weights[3]).reshape(-1, weight_hh.shape[2])
        if with_bias:
            bias = _merge_biases(weights[2], weights[3], merges_all=unit_param is None)
    if leak is not None:
        unit_param = leak.reshape(-1, weight_hh.shape[2])
    heads = weight_hh.shape[0]
    if heads > 1 and cell.gates > 1:
        weight_ih = swap_rows(weight_ih, cell.gates, heads)
        bias = bias if bias is None else swap_rows(bias, cell.gates, heads)
    return weight_ih, weight_hh, bias, unit_param


def _last_gate(bias: Tensor) -> Tensor:
    """Return the bias of the GRU's n, which a step multiplies by r."""
    return bias[bias.shape[0] * 2 // 3 :]


def _merge_biases(bias_ih: Tensor, bias_hh: Tensor, merges_all: bool) -> Tensor:
    """Return the bias of pre: without b_hn of the GRU, unless `merges_all`."""
    if merges_all:
        return bias_ih + bias_hh
    last = bias_hh.shape[0] * 2 // 3
    return torch.cat((bias_ih[:last] + bias_hh[:last], bias_ih[last:]))


def swap_rows(x: Tensor, first: int, second: int) -> Tensor:
    """Reorder rows [first, second, H/n] to [second, first, H/n]."""
    parts = x.reshape(first, second, -1, *x.shape[1:])
    return parts.transpose(0, 1).reshape(x.shape)


def split_rows(
    x: Tensor, shape: Sequence[int], cell: type[Cell], heads: int, directions: int
) -> list[Tensor]:
    """Split a gradient of merged rows into one tensor of this shape per direction."""
    parts = split_directions(x, shape, directions)
    if heads == 1 or cell.gates == 1:
        return parts
    return [swap_rows(part, heads, cell.gates) for part in parts]


def split_biases(
    gradient: Tensor,  # [D·K·H], of the merged bias
    of_units: Tensor | None,  # [D·H], of unit_param
    cell: type[Cell],
    heads: int,
    directions: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients of b_ih and b_hh, [K·H] for each direction.

    No two share memory: users may clip one in place, or free it.
    """
    rows = gradient.shape[0] // directions
    of_ih = split_rows(gradient, (rows,), cell, heads, directions)
    copied = gradient if directions > 1 else gradient.clone()  # `split_rows` copies each direction
    of_hh = split_rows(copied, (rows,), cell, heads, directions)
    if of_units is not None:
        hidden = rows // cell.gates
        of_directions = zip(of_hh, of_units.reshape(directions, hidden), strict=True)
        of_hh = [torch.cat((x[:-hidden], units)) for x, units in of_directions]
    return of_ih, of_hh


def split_directions(x: Tensor, shape: Sequence[int], directions: int) -> list[Tensor]:
    """Split x into one tensor of this shape per direction; they share no memory."""
    if directions == 1:
        return [x.reshape(shape)]
    return [part.clone() for part in x.reshape(directions, *shape).unbind()]
