"""vmap of the operator: fold the mapped dimension into the rows or the groups of one call.

V mapped problems that share their weights become V·B rows. Problems with separate weights become
V·G groups, so that an ensemble of models runs as one call. Packed data always becomes groups: the
rows of a step must stay contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Axes:
    """The dimensions of an argument that hold its rows, B, and its groups, G, or None."""

    rows: int | None  #: counted from the front
    groups: int | None  #: counted from the end


_DATA = _Axes(1, -2)  # [T, B, G, H], or [N, G, H] with offsets
_STATE = _Axes(0, -2)  # [B, G, H]
_WEIGHT = _Axes(None, -3)  # [G, K·H, H]
_UNIT_PARAM = _Axes(None, -2)  # [G, H]
_LENGTHS, _OFFSETS, _RESETS = _Axes(0, None), _Axes(None, None), _Axes(1, None)
_ARGUMENTS = (
    _WEIGHT,
    _STATE,  # h0
    _STATE,  # c0
    _UNIT_PARAM,
    _LENGTHS,
    _OFFSETS,
    _RESETS,
    _STATE,  # reset_h
    _STATE,  # reset_c
)

#: The axes of the tensors of `fastrnn::recurrence` and `recurrence_backward`, in order.
FORWARD = _DATA, *_ARGUMENTS
BACKWARD = _DATA, _STATE, _STATE, _DATA, _DATA, _DATA, *_ARGUMENTS


def rule(operator: Callable[..., tuple[Tensor, ...]], axes: tuple[_Axes, ...]) -> Callable:
    """Return the vmap rule of an operator, for `torch.library.register_vmap`."""

    def batched(
        info: Any, in_dims: tuple[int | None, ...], *arguments: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        tensors, options = list(arguments[: len(axes)]), arguments[len(axes) :]
        mapped = [dim is not None for dim in in_dims[: len(axes)]]
        # Move the mapped dimension of every tensor to the front.
        tensors = [
            x if x is None or dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims, strict=False)
        ]
        tensors = [
            x if x is None or is_mapped else x.expand(info.batch_size, *x.shape)
            for x, is_mapped in zip(tensors, mapped, strict=True)
        ]

        def maps(*kinds: _Axes) -> bool:
            return any(m for m, axis in zip(mapped, axes, strict=True) if axis in kinds)

        packed = tensors[axes.index(_OFFSETS)] is not None
        if not maps(_WEIGHT, _UNIT_PARAM) and not packed:
            results = _as_rows(operator, axes, tensors, options)
        elif not maps(_LENGTHS, _OFFSETS, _RESETS):
            results = _as_groups(operator, axes, tensors, options)
        else:
            results = _as_loop(operator, tensors, options)
        return results, (0,) * len(results)

    return batched


def _as_rows(
    operator: Callable,
    axes: tuple[_Axes, ...],
    tensors: list[Any],  # [V, ...] each
    options: tuple[int, ...],  # mode, reverse_from and the operator's further options
) -> tuple[Tensor, ...]:
    size = next(x.shape[0] for x in tensors if x is not None)
    folded = []
    for x, axis in zip(tensors, axes, strict=True):
        if x is not None and axis.rows is not None:
            x = x.movedim(0, axis.rows).flatten(axis.rows, axis.rows + 1)
        elif x is not None:
            x = x[0]  # a weight, which is only expanded
        folded.append(x)

    def unfold(x: Tensor) -> Tensor:
        rows = 0 if x.dim() == 3 else 1  # a state, or data
        return x.unflatten(rows, (size, -1)).movedim(rows, 0)

    return _unfolded(operator(*folded, *options), unfold, size)


def _as_groups(
    operator: Callable,
    axes: tuple[_Axes, ...],
    tensors: list[Any],  # [V, ...] each
    options: tuple[int, ...],  # mode, reverse_from and the operator's further options
) -> tuple[Tensor, ...]:
    """Fold into groups: the forward groups of all V problems first, then all reverse groups."""
    size, groups = tensors[axes.index(_WEIGHT)].shape[:2]
    mode, reverse_from, *extra = options
    n_forward = min(reverse_from, groups)
    sizes = [n for n in (n_forward, groups - n_forward) if n > 0]
    folded: list[Any] = []
    for x, axis in zip(tensors, axes, strict=True):
        if x is None:
            folded.append(None)
        elif axis.groups is None:
            folded.append(x[0])
        else:
            parts = x.movedim(0, axis.groups - 1).split(sizes, axis.groups)
            parts = [part.flatten(axis.groups - 1, axis.groups) for part in parts]
            folded.append(parts[0] if len(parts) == 1 else torch.cat(parts, axis.groups))

    def unfold(x: Tensor) -> Tensor:
        parts = x.split([size * n for n in sizes], -2)
        parts = [part.unflatten(-2, (size, -1)) for part in parts]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, -2)).movedim(-3, 0)

    return _unfolded(operator(*folded, mode, size * n_forward, *extra), unfold, size)


def _unfolded(
    results: tuple[Tensor, ...], unfold: Callable[[Tensor], Tensor], size: int
) -> tuple[Tensor, ...]:
    """Unfold the results to [V, ...]; those that the call lacks, of shape [0], become [V, 0]."""
    return tuple(x.new_empty(size, 0) if x.dim() == 1 else unfold(x) for x in results)


def _as_loop(
    operator: Callable,
    tensors: list[Any],  # [V, ...] each
    options: tuple[int, ...],  # mode, reverse_from and the operator's further options
) -> tuple[Tensor, ...]:
    """Call the operator once per problem, if the problems fold neither into rows nor into groups.

    Mapped lengths, offsets and resets belong to rows and need V times as many rows; mapped weights
    need V times as many groups. Folding both would compute V² problems, of which V are needed.
    Packed rows can only be folded into groups.
    """
    size = next(x.shape[0] for x in tensors if x is not None)
    results = [
        operator(*(x if x is None else x[v] for x in tensors), *options) for v in range(size)
    ]
    return tuple(map(torch.stack, zip(*results, strict=True)))
