"""The gradient of weight_hh: one matrix product over all steps, after the loop of the backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import Arguments, Gradients
from .cells import GRU
from .grad_matmul import outer
from .ragged import Ragged
from .time_shift import is_active


def weight_hh_grad(
    gradients: Gradients,  # of the backward
    out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    arguments: Arguments,
    h0_is_zero: bool = False,  # skips the product with h0
) -> Tensor:
    """Compute dW_hh [G, K·H, H], the sum over t and b of dz_t h_{t-1}^T."""
    parts = weight_hh_grads(gradients, out, arguments, h0_is_zero)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def weight_hh_grads(
    gradients: Gradients, out: Tensor, arguments: Arguments, h0_is_zero: bool = False
) -> list[Tensor]:
    """Compute the parts of dW_hh: of the groups before reverse_from, and of the others.

    h_{t-1} is reset_h, or 0, at a reset. dz, the gradient of W_hh h_{t-1}, is that of pre, except
    for the GRU: its last H elements are the gradient of `unit_param`, b_hn.
    """
    h0, reset_h, reverse_from = arguments.h0, arguments.reset_h, arguments.reverse_from
    dz = [gradients.pre]
    if arguments.mode == GRU and gradients.unit_param is not None:
        dz = [gradients.pre[..., : -out.shape[-1]], gradients.unit_param]
    if reverse_from == 0 or reverse_from >= h0.shape[1]:
        return [_weight_hh_grad(dz, out, arguments, reverse_from == 0, h0_is_zero)]
    parts = []
    for reverse, g in enumerate((slice(None, reverse_from), slice(reverse_from, None))):
        of_groups = arguments._replace(
            h0=h0[:, g], reset_h=reset_h if reset_h is None else reset_h[:, g]
        )
        tensors = [x[..., g, :] for x in dz], out[..., g, :]
        parts.append(_weight_hh_grad(*tensors, of_groups, bool(reverse), h0_is_zero))
    return parts


def _weight_hh_grad(
    dz: Sequence[Tensor],  # parts of dz along its last dimension
    out: Tensor,
    arguments: Arguments,
    reverse: bool,
    h0_is_zero: bool,
) -> Tensor:
    previous = _previous_states(out, arguments, reverse, h0_is_zero)
    products = [outer(*[(_at(x, index), states) for index, states in previous]) for x in dz]
    return products[0] if len(products) == 1 else torch.cat(products, 1)


def _previous_states(
    out: Tensor, arguments: Arguments, reverse: bool, h0_is_zero: bool
) -> list[tuple[Any, Tensor]]:
    """Return indices of dz, see `_at`, and the states h_{t-1} that belong to them.

    Together they cover all steps.
    """
    h0, reset_h = arguments.h0, arguments.reset_h
    lengths, offsets, resets = arguments.lengths, arguments.offsets, arguments.resets
    if offsets is not None and lengths is not None:
        states = [out, h0]
        if resets is not None:
            states.append(torch.zeros_like(h0) if reset_h is None else reset_h)
        index = _previous_rows(arguments.ragged(), out.shape[0], reverse)
        return [(None, torch.cat(states).index_select(0, index))]
    # The state before a row's first step is h0; the state before every other step is in out.
    index, previous = _remaining_steps(out, reverse)
    if resets is not None:
        # Mask the states, not dz: a diverged sequence must not affect the next one's gradient.
        starts = sequence_starts(arguments.ragged(), reverse)
        if lengths is not None:  # a reset of padding has no effect
            starts = starts & is_active(out.shape[0], lengths)
        starts = _at(starts, index)[..., None, None]
        previous = previous.where(~starts, 0 if reset_h is None else reset_h)
    if h0_is_zero and reset_h is None:
        return [(index, previous)]
    first: Any = -1 if reverse else 0
    if reverse and lengths is not None:
        last = (lengths.long() - 1).clamp(0, out.shape[0] - 1)
        first = last, torch.arange(out.shape[1], device=out.device)
    if not reverse and resets is not None:
        # With an index of None, the states before all steps include reset_h at step 0.
        start = 0 if reset_h is None or index is None else reset_h
        h0 = h0.where(~resets[0, :, None, None], start)
    if lengths is not None:  # a row without steps does not use its state
        h0 = h0.where((lengths > 0)[:, None, None], 0)
    return [(first, h0)] if previous.shape[0] == 0 else [(first, h0), (index, previous)]


def _at(x: Tensor, index: Any) -> Tensor:
    """Return x at the index; x itself if it is None: vmap does not support x[...]."""
    return x if index is None else x[index]


def _remaining_steps(out: Tensor, reverse: bool) -> tuple[Any, Tensor]:
    """Return the index of all steps except the first run, and the states before them.

    With a fixed number of steps, the states are a view.
    """
    if isinstance(out.shape[0], torch.SymInt):
        # With slices of T - 1 steps, a graph compiled for dynamic T would not support T = 2.
        zero = out.new_zeros(1, *out.shape[1:])
        return None, torch.cat((out, zero))[1:] if reverse else torch.cat((zero, out))[:-1]
    if reverse:
        return slice(-1), out[1:]
    return slice(1, None), out[:-1]


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
    """Return each packed row's index of its previous state in cat((out, h0, reset_h)): [N]."""
    lengths, offsets, resets = ragged
    assert lengths is not None  # the data is packed
    assert offsets is not None
    b, previous, exists = _previous_steps(offsets, lengths, size, reverse)
    index = torch.where(exists, previous, size + b)
    if resets is None:
        return index
    return index.where(~sequence_starts(ragged, reverse), size + lengths.shape[0] + b)


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
