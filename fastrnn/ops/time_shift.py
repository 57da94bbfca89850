"""What lies beside a step in time, for padded data [T, B, G, H] of groups of both directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def each_direction(function: Callable[..., Tensor], reverse_from: int, *tensors: Tensor) -> Tensor:
    """function(reverse, *tensors) of the groups before reverse_from, and of those from there on.

    The tensors and the result are [..., G, H].
    """
    groups = tensors[0].shape[-2]
    if reverse_from == 0 or reverse_from >= groups:
        return function(reverse_from == 0, *tensors)
    first = function(False, *(x[..., :reverse_from, :] for x in tensors))
    second = function(True, *(x[..., reverse_from:, :] for x in tensors))
    return torch.cat((first, second), -2)


def is_active(steps: int, lengths: Tensor) -> Tensor:
    """Whether row b is active at step t, t < lengths[b]: [T, B]."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths


def zero_padding(
    x: Tensor,  # [T, B, ...]
    active: Tensor,  # [T, B]
) -> Tensor:
    """x, and 0 where a row is inactive.

    A gradient sums products with all of x. Padding has the factor 0 there, and 0 · NaN is NaN.
    """
    return x.masked_fill(~active.reshape(*active.shape, *[1] * (x.dim() - 2)), 0)


def neighbours(
    x: Tensor,  # [T, B, G, H]
    edge: Tensor,  # [B, G, H]
    lengths: Tensor | None,  # [B]
    resets: Tensor | None,  # [T, B]
    later: bool,
) -> Tensor:
    """x of the step before, or after, each: `edge` where a row has none, 0 across a reset."""
    inner = x[1:] if later else x[:-1]
    if resets is not None:
        inner = inner.where(~resets[1:, :, None, None], 0)
    if not later:
        return torch.cat((edge[None], inner))
    beside = torch.cat((inner, edge[None]))
    if lengths is None:
        return beside
    exists = torch.arange(1, x.shape[0] + 1, device=x.device)[:, None] < lengths
    return beside.where(exists[..., None, None], edge)


def outermost(
    x: Tensor,  # [T, B, G, H]
    otherwise: Tensor,  # [B, G, H]
    lengths: Tensor | None,  # [B]
    last: bool,
) -> Tensor:
    """x at every row's last, or first, step; `otherwise` for a row that has none: [B, G, H]."""
    if lengths is None:
        return x[-1] if last else x[0]
    if last:
        step = (lengths.long() - 1).clamp(0, x.shape[0] - 1)
        index = step[None, :, None, None].expand(1, *x.shape[1:])
        x = x.gather(0, index)
    return x[0].where((lengths > 0)[:, None, None], otherwise)


def uncut(state: Tensor, resets: Tensor | None, reverse_from: int) -> Tensor:
    """A state [B, G, H] as it passes the border before step 0: 0 where a reset is there.

    A group that runs in reverse has its border with h0 behind the last step, where no reset is.
    """
    if resets is None:
        return state
    ascends = torch.arange(state.shape[1], device=state.device) < reverse_from
    return state.where(~(resets[0][:, None] & ascends)[..., None], 0)
