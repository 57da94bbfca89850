"""The specification: the grouped recurrence and its backward in plain PyTorch.

Every kernel computes the same results as `forward` and `backward`. Both consist of differentiable
torch operations, so autograd can differentiate either one. The second derivative of every backend
is the derivative of `backward` below.

Symbols, here and in every kernel: T steps, B batch rows, G groups, H hidden units; ``pre`` is the
input projection, the input's part of the pre-activation, ``h`` the state, and ``dz`` the gradient
of the pre-activation. The state is stored in pre's dtype at every step; sums are accumulated in
`accumulation_dtype`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ragged import Ragged
from .time_shift import is_active, zero_padding

#: The activations' numbers in the operators' schemas, the same as in csrc/params.h. They are not
#: strings because torch's stable ABI never frees a string argument.
ACTIVATION_CODES = {"tanh": 0, "relu": 1}
TANH, RELU = ACTIVATION_CODES.values()

#: h = act(z).
ACTIVATIONS: dict[int, Callable[[Tensor], Tensor]] = {TANH: torch.tanh, RELU: torch.relu}

#: dz = dh act'(z) in terms of h, since the forward saves only h. As in torch, relu passes dh where
#: h is NaN, and returns 0 where h is 0, even if dh is NaN or infinite.
GRADIENTS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    TANH: lambda dh, h: dh * (1 - h * h),
    RELU: lambda dh, h: dh.masked_fill(h <= 0, 0),
}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half precision, and the dtype itself otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def forward(
    pre: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    weight_hh: Tensor,  # [G, H, H]
    h0: Tensor,  # [B, G, H]
    ragged: Ragged,
    activation: int,
    reverse_from: int,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = act(pre_t + W_hh h_{t-1}) per group; see `fastrnn.functional.recurrence`."""
    act = ACTIVATIONS[activation]
    acc = accumulation_dtype(pre.dtype)
    weight = weight_hh.to(acc)
    layout = Layout(pre, h0, ragged)
    padded = layout.pad(pre)

    def run(groups: slice, steps: range) -> tuple[Tensor, Tensor]:
        h = h0[:, groups]
        out: dict[int, Tensor] = {}
        for t in steps:
            before = layout.reset(t, steps, h).to(acc)
            z = padded[t, :, groups].to(acc) + _matvec(weight[groups], before)
            new = act(z).to(pre.dtype)
            out[t], h = layout.keep(t, new, h)
        return torch.stack([out[t] for t in range(layout.steps)]), h

    out, h_n = _each_direction(run, layout.steps, weight_hh.shape[0], reverse_from)
    return layout.pack(out, like=pre), h_n


def backward(
    grad_out: Tensor,  # as out
    grad_h_n: Tensor,  # [B, G, H]
    out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
    weight_hh: Tensor,  # [G, H, H]
    h0: Tensor,  # [B, G, H]
    ragged: Ragged,
    activation: int,
    reverse_from: int,
) -> tuple[Tensor, Tensor]:
    """Compute dz_t = (dout_t + W_hh^T dz_{t+1}) act'(h_t), in the reverse order of `forward`.

    Returns:
        grad_pre, which is dz, shaped as ``out``, and grad_h0 [B, G, H].
    """
    gradient = GRADIENTS[activation]
    acc = accumulation_dtype(out.dtype)
    weight_t = weight_hh.to(acc).mT
    layout = Layout(out, h0, ragged)
    padded_out, padded_grad = layout.pad(out), layout.pad(grad_out)

    def run(groups: slice, steps: range) -> tuple[Tensor, Tensor]:
        dh = grad_h_n[:, groups].to(acc)
        dz: dict[int, Tensor] = {}
        for t in reversed(steps):
            h = padded_out[t, :, groups].to(acc)
            new = gradient(padded_grad[t, :, groups].to(acc) + dh, h).to(out.dtype)
            before = layout.reset(t, steps, _matvec(weight_t[groups], new.to(acc)))
            dz[t], dh = layout.keep(t, new, dh, before)
        return torch.stack([dz[t] for t in range(layout.steps)]), dh.to(out.dtype)

    grad_pre, grad_h0 = _each_direction(run, layout.steps, weight_hh.shape[0], reverse_from)
    return layout.pack(grad_pre, like=out), grad_h0


def _matvec(weight: Tensor, h: Tensor) -> Tensor:
    """Compute W h per row and group: weight [G, H, K], h [B, G, K] -> [B, G, H]."""
    return torch.einsum("ghk,bgk->bgh", weight, h)


def _each_direction(
    run: Callable[[slice, range], tuple[Tensor, Tensor]],
    steps: int,
    groups: int,
    reverse_from: int,
) -> tuple[Tensor, Tensor]:
    """Run the groups before reverse_from from the first step to the last, and the others back."""
    if reverse_from >= groups:
        return run(slice(None), range(steps))
    if reverse_from == 0:
        return run(slice(None), range(steps)[::-1])
    first = run(slice(None, reverse_from), range(steps))
    second = run(slice(reverse_from, None), range(steps)[::-1])
    return torch.cat((first[0], second[0]), dim=2), torch.cat((first[1], second[1]), dim=1)


class Layout:
    """The layout of the data: row positions, active rows (t < lengths[b]) and resets."""

    def __init__(self, data: Tensor, h0: Tensor, ragged: Ragged) -> None:
        lengths, offsets, resets = ragged
        self.steps = ragged.steps(data)
        self.active = None if lengths is None else is_active(self.steps, lengths)  # [T, B]
        self.rows: Tensor | None = None  # [T, B], for packed data
        if offsets is not None and self.active is not None:
            rows = offsets[:, None] + torch.arange(h0.shape[0], device=h0.device)
            # All inactive positions map to one extra row at the end.
            self.rows = rows.where(self.active, data.shape[0])
        self.resets = resets if resets is None else self.pad(resets)  # [T, B]

    def pad(self, data: Tensor) -> Tensor:
        """[T, B, ...], or [N, ...] if packed -> [T, B, ...], 0 where a row is inactive."""
        if self.active is None:
            return data
        if self.rows is None:
            return zero_padding(data, self.active)
        data = torch.cat((data, data.new_zeros(1, *data.shape[1:])))
        # reshape, not flatten: it supports vmap, as in grad_matmul.
        padded = data.index_select(0, self.rows.reshape(-1))
        return padded.reshape(*self.rows.shape, *data.shape[1:])

    def pack(self, data: Tensor, like: Tensor) -> Tensor:
        """[T, B, G, H] -> [N, G, H] if packed, with the number of rows of `like`."""
        if self.rows is None:
            return data
        packed = data.new_zeros(like.shape[0] + 1, *data.shape[2:])
        rows = data.reshape(-1, *data.shape[2:])
        return packed.index_copy(0, self.rows.reshape(-1), rows)[:-1]

    def reset(self, t: int, steps: range, state: Tensor) -> Tensor:
        """Zero what crosses a reset: between step t and the step before it in `steps`."""
        later = t if steps.step > 0 else t + 1
        if self.resets is None or later == self.steps:
            return state
        return state.where(~self.resets[later, :, None, None], 0)

    def keep(
        self, t: int, new: Tensor, state: Tensor, carried: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (new, carried or new) where a row is active, and (0, state) elsewhere."""
        carried = new if carried is None else carried
        if self.active is None:
            return new, carried
        active = self.active[t, :, None, None]
        return new.where(active, 0), carried.where(active, state)
