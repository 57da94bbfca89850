"""The gradient of weight_hh: one matrix product over all steps, after the loop of the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from .grad_matmul import outer
from .ragged import Ragged
from .time_shift import zero_at_reset, zero_padding


def weight_hh_grad(
    dz: Tensor,  # as out
    out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    h0: Tensor,  # [B, G, H]
    ragged: Ragged,
    reverse_from: int,
    h0_is_zero: bool = False,  # skips the product with h0
) -> Tensor:
    """Compute dW_hh [G, H, H], the sum over t and b of dz_t h_{t-1}^T; h_{t-1} = 0 at a reset."""
    if reverse_from == 0 or reverse_from >= h0.shape[1]:
        return _weight_hh_grad(dz, out, h0, ragged, reverse_from == 0, h0_is_zero)
    parts = []
    for reverse, g in enumerate((slice(None, reverse_from), slice(reverse_from, None))):
        tensors = dz[..., g, :], out[..., g, :], h0[:, g]
        parts.append(_weight_hh_grad(*tensors, ragged, bool(reverse), h0_is_zero))
    return torch.cat(parts)


def _weight_hh_grad(
    dz: Tensor, out: Tensor, h0: Tensor, ragged: Ragged, reverse: bool, h0_is_zero: bool
) -> Tensor:
    lengths, offsets, resets = ragged
    if offsets is not None and lengths is not None:
        index = _previous_rows(ragged, out.shape[0], reverse)
        states = [out, h0] if resets is None else [out, h0, torch.zeros_like(h0[:1])]
        return outer((dz, torch.cat(states).index_select(0, index)))
    # The state before a row's first step is h0; the state before every other step is in out.
    remaining, previous, starts = _remaining_steps(dz, out, ragged, reverse)
    if starts is not None:
        # Mask the states, not dz: a diverged sequence must not affect the next one's gradient.
        previous = zero_padding(previous, ~starts)
    if h0_is_zero:
        return outer((remaining, previous))
    first = dz[-1 if reverse else 0]
    if reverse and lengths is not None:
        last = (lengths.long() - 1).clamp(0, dz.shape[0] - 1)
        first = dz[last, torch.arange(dz.shape[1], device=dz.device)]
    if not reverse:
        h0 = zero_at_reset(h0, resets, h0.shape[1])
    if lengths is not None:  # a row without steps does not use its state
        h0 = h0.where((lengths > 0)[:, None, None], 0)
    if remaining.shape[0] == 0:
        return outer((first, h0))
    return outer((first, h0), (remaining, previous))


def _remaining_steps(
    dz: Tensor, out: Tensor, ragged: Ragged, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return dz, the previous states and the sequence starts of all steps except the first run.

    With a fixed number of steps, dz and the states are views.
    """
    starts = None if ragged.resets is None else sequence_starts(ragged, reverse)
    if isinstance(dz.shape[0], torch.SymInt):
        # With slices of T - 1 steps, a graph compiled for dynamic T would not support T = 2.
        zero = out.new_zeros(1, *out.shape[1:])
        return dz, torch.cat((out, zero))[1:] if reverse else torch.cat((zero, out))[:-1], starts
    dz_slice, out_slice = (slice(-1), slice(1, None)) if reverse else (slice(1, None), slice(-1))
    return dz[dz_slice], out[out_slice], None if starts is None else starts[dz_slice]


def sequence_starts(ragged: Ragged, reverse: bool) -> Tensor:
    """Whether a sequence starts at a step, in a direction's order: shaped as `ragged.resets`.

    `ragged.resets` must be given.
    """
    lengths, offsets, resets = ragged
    assert resets is not None
    if not reverse:
        return resets
    if offsets is not None and lengths is not None:
        _, later, exists = _previous_steps(offsets, lengths, resets.shape[0], reverse)
        return exists & resets[later.clamp(max=resets.shape[0] - 1)]
    # Not resets[1:]: with T - 1 steps, a graph compiled for dynamic T would not support T = 2.
    starts = torch.cat((resets, resets.new_zeros(1, resets.shape[1])))[1:]
    if lengths is not None:
        later = torch.arange(1, resets.shape[0] + 1, device=resets.device)
        starts = starts & (later[:, None] < lengths)
    return starts


def _previous_rows(ragged: Ragged, size: int, reverse: bool) -> Tensor:
    """Return each packed row's index of its previous state in cat((out, h0, 0)): [N]."""
    lengths, offsets, resets = ragged
    assert lengths is not None  # the data is packed
    assert offsets is not None
    b, previous, exists = _previous_steps(offsets, lengths, size, reverse)
    index = torch.where(exists, previous, size + b)
    if resets is None:
        return index
    return index.where(~sequence_starts(ragged, reverse), size + lengths.shape[0])


def _previous_steps(
    offsets: Tensor, lengths: Tensor, size: int, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return per packed row its b, the row of its previous step, and whether that exists: [N]."""
    # Adding zeros makes row mapped under vmap if offsets is. Otherwise vmap would expand it, which
    # searchsorted has to copy, with a warning.
    row = torch.arange(size, device=offsets.device) + torch.zeros_like(offsets[:1])
    t = torch.searchsorted(offsets, row, right=True) - 1
    b = row - offsets[t]
    if not reverse:
        return b, offsets[(t - 1).clamp(min=0)] + b, t > 0
    return b, offsets[(t + 1).clamp(max=offsets.shape[0] - 1)] + b, t + 1 < lengths[b]
