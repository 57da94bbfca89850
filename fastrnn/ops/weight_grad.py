"""The gradient of weight_hh: one matrix product over all steps, after the backward's loop."""

from __future__ import annotations

import torch
from torch import Tensor

from .grad_matmul import outer
from .ragged import Ragged
from .time_shift import uncut, zero_padding


def weight_hh_grad(
    dz: Tensor,  # as out
    out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    h0: Tensor,  # [B, G, H]
    ragged: Ragged,
    reverse_from: int,
    from_zero: bool = False,  # whether h0 is zero, and its product need not be taken
) -> Tensor:
    """dW_hh = sum over t and b of dz_t h_{t-1}^T, h_{t-1} = 0 where a row begins: [G, H, H]."""
    if reverse_from == 0 or reverse_from >= h0.shape[1]:
        return _weight_hh_grad(dz, out, h0, ragged, reverse_from == 0, from_zero)
    parts = []
    for reverse, g in enumerate((slice(None, reverse_from), slice(reverse_from, None))):
        tensors = dz[..., g, :], out[..., g, :], h0[:, g]
        parts.append(_weight_hh_grad(*tensors, ragged, bool(reverse), from_zero))
    return torch.cat(parts)


def _weight_hh_grad(
    dz: Tensor, out: Tensor, h0: Tensor, ragged: Ragged, reverse: bool, from_zero: bool
) -> Tensor:
    lengths, offsets, resets = ragged
    if offsets is not None and lengths is not None:
        index = _previous_rows(ragged, out.shape[0], reverse)
        states = [out, h0] if resets is None else [out, h0, torch.zeros_like(h0[:1])]
        return outer((dz, torch.cat(states).index_select(0, index)))
    # The state before a row's first step is h0; before every other, a row of out.
    rest, previous, begun = _other_steps(dz, out, ragged, reverse)
    if begun is not None:
        # The states, not dz: a sequence that has diverged must not reach the next one's gradient.
        previous = zero_padding(previous, ~begun)
    if from_zero:
        return outer((rest, previous))
    first = dz[-1 if reverse else 0]
    if reverse and lengths is not None:
        last = (lengths.long() - 1).clamp(0, dz.shape[0] - 1)
        first = dz[last, torch.arange(dz.shape[1], device=dz.device)]
    if not reverse:
        h0 = uncut(h0, resets, h0.shape[1])
    if lengths is not None:  # a row without steps does not use its state
        h0 = h0.where((lengths > 0)[:, None, None], 0)
    if rest.shape[0] == 0:
        return outer((first, h0))
    return outer((first, h0), (rest, previous))


def _other_steps(
    dz: Tensor, out: Tensor, ragged: Ragged, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All steps but the first that is run: dz, the states before, whether a row begins: no copy."""
    begun = None if ragged.resets is None else begins(ragged, reverse)
    if isinstance(dz.shape[0], torch.SymInt):
        # Of slices of T - 1 steps, a compiled graph for every T would not serve T = 2.
        edge = out.new_zeros(1, *out.shape[1:])
        return dz, torch.cat((out, edge))[1:] if reverse else torch.cat((edge, out))[:-1], begun
    of_dz, of_out = (slice(-1), slice(1, None)) if reverse else (slice(1, None), slice(-1))
    return dz[of_dz], out[of_out], None if begun is None else begun[of_dz]


def begins(ragged: Ragged, reverse: bool) -> Tensor:
    """Whether a reset precedes a step, in a direction's order: shaped as resets, which is given."""
    lengths, offsets, resets = ragged
    assert resets is not None
    if not reverse:
        return resets
    if offsets is not None and lengths is not None:
        _, later, exists = _previous_steps(offsets, lengths, resets.shape[0], reverse)
        return exists & resets[later.clamp(max=resets.shape[0] - 1)]
    # Not of resets[1:]: of T - 1 steps, a compiled graph for every T would not serve T = 2.
    begun = torch.cat((resets, resets.new_zeros(1, resets.shape[1])))[1:]
    if lengths is not None:
        later = torch.arange(1, resets.shape[0] + 1, device=resets.device)
        begun = begun & (later[:, None] < lengths)
    return begun


def _previous_rows(ragged: Ragged, size: int, reverse: bool) -> Tensor:
    """For every packed row, the row of its previous state in cat((out, h0, 0)): [N]."""
    lengths, offsets, resets = ragged
    assert lengths is not None  # data is packed
    assert offsets is not None
    b, previous, exists = _previous_steps(offsets, lengths, size, reverse)
    index = torch.where(exists, previous, size + b)
    if resets is None:
        return index
    return index.where(~begins(ragged, reverse), size + lengths.shape[0])


def _previous_steps(
    offsets: Tensor, lengths: Tensor, size: int, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """For every packed row its b, the row of the step before it, and whether there is one: [N]."""
    # Mapped by vmap as offsets is: searchsorted would have to copy an expanded one, and warns.
    row = torch.arange(size, device=offsets.device) + torch.zeros_like(offsets[:1])
    t = torch.searchsorted(offsets, row, right=True) - 1
    b = row - offsets[t]
    if not reverse:
        return b, offsets[(t - 1).clamp(min=0)] + b, t > 0
    return b, offsets[(t + 1).clamp(max=offsets.shape[0] - 1)] + b, t + 1 < lengths[b]
