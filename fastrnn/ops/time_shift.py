"""Shifts in time and masks of padded data [T, B, G, H], with groups of both directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def each_direction(function: Callable[..., Tensor], reverse_from: int, *tensors: Tensor) -> Tensor:
    """Apply function(reverse, *tensors) to the groups before reverse_from and to the others.

    The tensors and the result are [..., G, H]. Groups from reverse_from on have reverse=True.
    """
    groups = tensors[0].shape[-2]
    if reverse_from == 0 or reverse_from >= groups:
        return function(reverse_from == 0, *tensors)
    first = function(False, *(x[..., :reverse_from, :] for x in tensors))
    second = function(True, *(x[..., reverse_from:, :] for x in tensors))
    return torch.cat((first, second), -2)


def is_active(steps: int, lengths: Tensor) -> Tensor:
    """Whether row b is active at step t, that is t < lengths[b]: [T, B]."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths


def zero_padding(
    x: Tensor,  # [T, B, ...]
    active: Tensor,  # [T, B]
) -> Tensor:
    """Return x with 0 where a row is inactive.

    Gradients sum products with all of x. Padding is multiplied by 0 there, but 0 · NaN is NaN.
    """
    return x.masked_fill(~active.reshape(*active.shape, *[1] * (x.dim() - 2)), 0)


def shift(
    x: Tensor,  # [T, B, G, H]
    boundary: Tensor,  # [B, G, H]
    lengths: Tensor | None,  # [B]
    resets: Tensor | None,  # [T, B]
    later: bool,
) -> Tensor:
    """Return x of the previous step, or of the next if `later`, at every step: [T, B, G, H].

    The value is `boundary` where a row has no such step, and 0 across a reset.
    """
    inner = x[1:] if later else x[:-1]
    if resets is not None:
        inner = inner.where(~resets[1:, :, None, None], 0)
    if not later:
        return torch.cat((boundary[None], inner))
    shifted = torch.cat((inner, boundary[None]))
    if lengths is None:
        return shifted
    exists = torch.arange(1, x.shape[0] + 1, device=x.device)[:, None] < lengths
    return shifted.where(exists[..., None, None], boundary)


def end_step(
    x: Tensor,  # [T, B, G, H]
    default: Tensor,  # [B, G, H]
    lengths: Tensor | None,  # [B]
    last: bool,
) -> Tensor:
    """Return x at each row's last, or first, step; `default` for a row without steps: [B, G, H]."""
    if lengths is None:
        return x[-1] if last else x[0]
    if last:
        step = (lengths.long() - 1).clamp(0, x.shape[0] - 1)
        index = step[None, :, None, None].expand(1, *x.shape[1:])
        x = x.gather(0, index)
    return x[0].where((lengths > 0)[:, None, None], default)


def zero_at_reset(state: Tensor, resets: Tensor | None, reverse_from: int) -> Tensor:
    """Return the state [B, G, H] that crosses from h0 to step 0: 0 where step 0 has a reset.

    A group that runs in reverse receives h0 after the last step, where there is no reset.
    """
    if resets is None:
        return state
    forward = torch.arange(state.shape[1], device=state.device) < reverse_from
    return state.where(~(resets[0][:, None] & forward)[..., None], 0)
