"""The operator ``fastrnn::recurrence``: schema, fake, autograd and implementation, each once.

The backends know nothing of autograd. The gradient of pre and h0 is an operator of its own,
``fastrnn::recurrence_backward``; the gradient of weight_hh is one matrix product after it; and
the derivative of the backward, for double backward, is the derivative of the reference's.

``fastrnn::recurrence`` is served by `dispatch`, and on CPU tensors by the extension directly,
where it is loaded: the way through Python costs more than a short call's work. A second pair of
operators, ``fastrnn::recurrence_reference``, is the same served by the reference alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import cpp, dispatch, reference

#: The library our operators are defined in; it must outlive them all.
LIBRARY = torch.library.Library("fastrnn", "DEF")

FORWARD = (
    "(Tensor pre, Tensor weight_hh, Tensor h0, Tensor? lengths, Tensor? offsets, "
    "str activation, int reverse_from) -> (Tensor out, Tensor h_n)"
)
BACKWARD = (
    "(Tensor grad_out, Tensor grad_h_n, Tensor out, Tensor weight_hh, Tensor h0, "
    "Tensor? lengths, Tensor? offsets, str activation, int reverse_from) "
    "-> (Tensor grad_pre, Tensor grad_h0)"
)


def _fake(pre: Tensor, weight_hh: Tensor, h0: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return pre.new_empty(pre.shape), h0.new_empty(h0.shape)


def _fake_backward(
    grad_out: Tensor, grad_h_n: Tensor, out: Tensor, weight_hh: Tensor, h0: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return out.new_empty(out.shape), h0.new_empty(h0.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, weight_hh, h0, lengths, offsets, ctx.activation, ctx.reverse_from = inputs
    ctx.save_for_backward(output[0], weight_hh, h0, lengths, offsets)


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.activation, ctx.reverse_from = inputs
    ctx.save_for_backward(*tensors)


def _without_autocast(function: Callable) -> Callable:
    """Autocast would cast the sums inside, which have their own precision, once more."""

    @functools.wraps(function)
    def wrapped(first: Tensor, *arguments: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *arguments)

    return wrapped


def _double_backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    *differentiable, lengths, offsets = ctx.saved_tensors
    options = lengths, offsets, ctx.activation, ctx.reverse_from
    backward = _without_autocast(reference.backward)
    vjp = torch.func.vjp(lambda *tensors: backward(*tensors, *options), *differentiable)[1]
    return *vjp(grads), None, None, None, None


def _register(name: str, forward: Callable, backward: Callable) -> Callable:
    """Define ``fastrnn::name`` and ``fastrnn::name_backward``; return the first."""
    for suffix, schema, fake, implementation in (
        ("", FORWARD, _fake, forward),
        ("_backward", BACKWARD, _fake_backward, backward),
    ):
        LIBRARY.define(name + suffix + schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name + suffix, _without_autocast(implementation), "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastrnn::{name}{suffix}", fake, lib=LIBRARY)
    backward_operator = getattr(torch.ops.fastrnn, name + "_backward").default

    def _backward(ctx: Any, grad_out: Tensor, grad_h_n: Tensor) -> tuple[Tensor | None, ...]:
        *saved, lengths, offsets = ctx.saved_tensors
        options = lengths, offsets, ctx.activation, ctx.reverse_from
        grad_pre, grad_h0 = backward_operator(grad_out, grad_h_n, *saved, *options)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            out, _, h0 = saved
            grad_weight = weight_gradient(grad_pre, out, h0, lengths, offsets, ctx.reverse_from)
        return grad_pre, grad_weight, grad_h0, None, None, None, None

    torch.library.register_autograd(
        f"fastrnn::{name}", _backward, setup_context=_setup_context, lib=LIBRARY
    )
    torch.library.register_autograd(
        f"fastrnn::{name}_backward",
        _double_backward,
        setup_context=_setup_context_backward,
        lib=LIBRARY,
    )
    return getattr(torch.ops.fastrnn, name).default


@_without_autocast
def weight_gradient(
    dz: Tensor,  # as out
    out: Tensor,  # [T, B, G, H], or [N, G, H] with offsets
    h0: Tensor,  # [B, G, H]
    lengths: Tensor | None,  # [B]
    offsets: Tensor | None,  # [T]
    reverse_from: int,
) -> Tensor:
    """dW_hh = sum over t and b of dz_t h_{t-1}^T: [G, H, H]."""
    if reverse_from == 0 or reverse_from >= h0.shape[1]:
        return _weight_gradient(dz, out, h0, lengths, offsets, reverse_from == 0)
    parts = []
    for reverse, g in enumerate((slice(None, reverse_from), slice(reverse_from, None))):
        tensors = dz[..., g, :], out[..., g, :], h0[:, g]
        parts.append(_weight_gradient(*tensors, lengths, offsets, bool(reverse)))
    return torch.cat(parts)


def _weight_gradient(
    dz: Tensor,
    out: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    reverse: bool,
) -> Tensor:
    if offsets is not None and lengths is not None:
        index = _previous_rows(offsets, lengths, out.shape[0], reverse)
        return _outer(dz, torch.cat((out, h0)).index_select(0, index))
    # The state before a row's first step is h0; before every other, a row of out: no copy.
    if not reverse:
        first, rest, previous = dz[0], dz[1:], out[:-1]
    else:
        first, rest, previous = dz[-1], dz[:-1], out[1:]
        if lengths is not None:
            last = (lengths.long() - 1).clamp(0, dz.shape[0] - 1)
            first = dz[last, torch.arange(dz.shape[1], device=dz.device)]
    # Not flatten: reshape can be batched, as torch.autograd.grad(is_grads_batched=True) needs.
    rest, previous = (x.reshape(-1, *x.shape[2:]) for x in (rest, previous))
    return _outer(rest, previous) + _outer(first, h0)


def _outer(dz: Tensor, h: Tensor) -> Tensor:
    """Sum of dz h^T over rows: [N, G, H], [N, G, K] -> [G, H, K]."""
    if dz.shape[1] == 1:  # a plain matrix product is faster than a batch of one
        return (dz[:, 0].mT @ h[:, 0])[None]
    return dz.permute(1, 2, 0) @ h.transpose(0, 1)


def _previous_rows(offsets: Tensor, lengths: Tensor, size: int, reverse: bool) -> Tensor:
    """For every packed row, the row that holds its previous state in cat((out, h0)): [N]."""
    row = torch.arange(size, device=offsets.device)
    t = torch.searchsorted(offsets, row, right=True) - 1
    b = row - offsets[t]
    if not reverse:
        return torch.where(t > 0, offsets[(t - 1).clamp(min=0)] + b, size + b)
    later = (t + 1).clamp(max=offsets.shape[0] - 1)
    return torch.where(t + 1 < lengths[b], offsets[later] + b, size + b)


recurrence = _register("recurrence", dispatch.forward, dispatch.backward)
recurrence_reference = _register("recurrence_reference", reference.forward, reference.backward)


def _in_place(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    activation: str,
    reverse_from: int,
) -> Tensor:
    out, h_n = dispatch.forward(pre, weight_hh, h0, lengths, None, activation, reverse_from)
    pre.copy_(out)
    return h_n


# Dense data, no gradient: out takes pre's place, which saves the fresh memory of a large output.
LIBRARY.define(
    "recurrence_(Tensor(a!) pre, Tensor weight_hh, Tensor h0, Tensor? lengths, "
    "str activation, int reverse_from) -> Tensor h_n"
)
LIBRARY.impl("recurrence_", _without_autocast(_in_place), "CompositeExplicitAutograd")
recurrence_ = torch.ops.fastrnn.recurrence_.default

# Loading the extension registers its kernels for CPU tensors.
cpp.unusable()
