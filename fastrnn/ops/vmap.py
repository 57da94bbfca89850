"""vmap of the operator: a mapped dimension becomes more rows, or more groups, of one call.

With one weight_hh for all of them the V mapped problems are V·B rows. With a weight_hh of its own
each, and for packed data, whose rows a step must stay together, they are V·G groups: an ensemble
of models runs as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Axes:
    """Where an argument has its rows, B, and its groups, G: from the front and from the end."""

    rows: int | None
    groups: int | None


_DATA = _Axes(1, -2)  # [T, B, G, H], or [N, G, H] with offsets
_STATE = _Axes(0, -2)  # [B, G, H]
_WEIGHT = _Axes(None, -3)  # [G, H, H]
_RAGGED = _Axes(0, None), _Axes(None, None), _Axes(1, None)  # lengths, offsets, resets

#: Of the tensors of `fastrnn::recurrence` and `recurrence_backward`, in order.
FORWARD = _DATA, _WEIGHT, _STATE, *_RAGGED
BACKWARD = _DATA, _STATE, _DATA, _WEIGHT, _STATE, *_RAGGED
_OUTPUTS = _DATA, _STATE


def rule(operator: Callable[..., tuple[Tensor, Tensor]], axes: tuple[_Axes, ...]) -> Callable:
    """The function that `torch.library.register_vmap` wants of an operator of ours."""

    def batched(
        info: Any, in_dims: tuple[int | None, ...], *arguments: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        tensors, options = list(arguments[: len(axes)]), arguments[len(axes) :]
        mapped = [dim is not None for dim in in_dims[: len(axes)]]
        # The mapped dimension first in all of them.
        tensors = [
            x if x is None or dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims, strict=False)
        ]
        tensors = [
            x if x is None or is_mapped else x.expand(info.batch_size, *x.shape)
            for x, is_mapped in zip(tensors, mapped, strict=True)
        ]
        packed = tensors[-2] is not None
        own_weights = any(m for m, where in zip(mapped, axes, strict=True) if where is _WEIGHT)
        if not own_weights and not packed:
            results = _as_rows(operator, axes, tensors, options)
        elif not any(mapped[-3:]):
            results = _as_groups(operator, axes, tensors, options)
        else:
            results = _one_by_one(operator, tensors, options)
        return results, (0, 0)

    return batched


def _as_rows(
    operator: Callable,
    axes: tuple[_Axes, ...],
    tensors: list[Any],  # [V, ...] each
    options: tuple[int, ...],  # activation, reverse_from and the operator's own
) -> tuple[Tensor, Tensor]:
    size = next(x.shape[0] for x in tensors if x is not None)
    folded = []
    for x, where in zip(tensors, axes, strict=True):
        if x is not None and where.rows is not None:
            x = x.movedim(0, where.rows).flatten(where.rows, where.rows + 1)
        elif x is not None:
            x = x[0]  # weight_hh, expanded
        folded.append(x)
    out, h_n = operator(*folded, *options)
    return out.unflatten(1, (size, -1)).movedim(1, 0), h_n.unflatten(0, (size, -1))


def _as_groups(
    operator: Callable,
    axes: tuple[_Axes, ...],
    tensors: list[Any],  # [V, ...] each
    options: tuple[int, ...],  # activation, reverse_from and the operator's own
) -> tuple[Tensor, Tensor]:
    """Groups that run in reverse stand last: those of all V problems follow all the others."""
    weight = next(x for x, where in zip(tensors, axes, strict=True) if where is _WEIGHT)
    size, groups = weight.shape[:2]
    activation, reverse_from, *own = options
    turn = min(reverse_from, groups)
    sizes = [n for n in (turn, groups - turn) if n > 0]
    folded: list[Any] = []
    for x, where in zip(tensors, axes, strict=True):
        if x is None:
            folded.append(None)
        elif where.groups is None:
            folded.append(x[0])
        else:
            parts = x.movedim(0, where.groups - 1).split(sizes, where.groups)
            parts = [part.flatten(where.groups - 1, where.groups) for part in parts]
            folded.append(parts[0] if len(parts) == 1 else torch.cat(parts, where.groups))
    results = []
    for x in operator(*folded, activation, size * turn, *own):
        parts = x.split([size * n for n in sizes], -2)
        parts = [part.unflatten(-2, (size, -1)) for part in parts]
        results.append((parts[0] if len(parts) == 1 else torch.cat(parts, -2)).movedim(-3, 0))
    return results[0], results[1]


def _one_by_one(
    operator: Callable,
    tensors: list[Any],  # [V, ...] each
    options: tuple[int, ...],  # activation, reverse_from and the operator's own
) -> tuple[Tensor, Tensor]:
    """Where rows end, lie or begin anew elsewhere for each, and more rows would not do.

    Lengths, offsets and resets belong to rows, so V of them need V times as many rows; weights,
    V times as many groups. Both would be V² problems, of which V are wanted.
    """
    size = next(x.shape[0] for x in tensors if x is not None)
    results = [
        operator(*(x if x is None else x[v] for x in tensors), *options) for v in range(size)
    ]
    out, h_n = zip(*results, strict=True)
    return torch.stack(out), torch.stack(h_n)
