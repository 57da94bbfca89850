"""The operator ``fastrnn::recurrence``: schema, fake, autograd and implementation, each once.

The backends know nothing of autograd. The gradient of pre and h0 is an operator of its own,
``fastrnn::recurrence_backward``; the gradient of weight_hh is one matrix product after it; and
the derivative of the backward, for double backward, is the derivative of the reference's.

``fastrnn::recurrence`` takes the backend that `dispatch` finds best; on CPU tensors the extension
implements it directly, because a way through Python costs more than a short call's work.
``fastrnn::recurrence_by`` takes the backend it is given. ``fastrnn::recurrence.out`` fills a tensor
that may be pre itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import autograd_registration, jvp, reference, vmap
from ._eager import add_gradients, below_autograd_once, copy_on_write, is_eager
from ._torch_private import below_autograd
from .autocast import without_autocast
from .backends import cpu, dispatch
from .ragged import Ragged
from .weight_grad import weight_hh_grad

#: The library our operators are defined in; it must outlive them all.
LIBRARY = torch.library.Library("fastrnn", "DEF")

_RAGGED = "Tensor? lengths, Tensor? offsets, Tensor? resets, int activation, int reverse_from"
_FORWARD = f"Tensor pre, Tensor weight_hh, Tensor h0, {_RAGGED}"
_BACKWARD = f"Tensor grad_out, Tensor grad_h_n, Tensor out, Tensor weight_hh, Tensor h0, {_RAGGED}"


def _fake(pre: Tensor, weight_hh: Tensor, h0: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return pre.new_empty(pre.shape), h0.new_empty(h0.shape)


def _fake_backward(
    grad_out: Tensor, grad_h_n: Tensor, out: Tensor, weight_hh: Tensor, h0: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return out.new_empty(out.shape), h0.new_empty(h0.shape)


class Operator:
    """``fastrnn::name`` and ``fastrnn::name_backward``, with all that torch must know of them.

    Calling it is calling the operator, in eager mode with a cheaper autograd.

    Args:
        options: further arguments at the end of both schemas.
        forward, backward: the implementations for devices that have none of their own.
    """

    def __init__(self, name: str, options: str, forward: Callable, backward: Callable) -> None:
        self.operator = self._define(
            name, _FORWARD + options, forward, _fake, vmap.FORWARD, "Tensor out, Tensor h_n"
        )
        self.backward_operator = self._define(
            f"{name}_backward",
            _BACKWARD + options,
            backward,
            _fake_backward,
            vmap.BACKWARD,
            "Tensor grad_pre, Tensor grad_h0",
        )
        autograd_registration.register(
            LIBRARY,
            self.operator,
            count=len(vmap.FORWARD),
            without_first=True,
            backward=self._backward,
            jvp=without_autocast(self._jvp),
        )
        autograd_registration.register(
            LIBRARY,
            self.backward_operator,
            count=len(vmap.BACKWARD),
            without_first=False,
            backward=_double_backward,
            jvp=without_autocast(self._backward_jvp),
        )

    @staticmethod
    def _define(
        name: str,
        arguments: str,
        implementation: Callable,
        fake: Callable,
        axes: tuple[Any, ...],
        results: str,
    ) -> Any:
        LIBRARY.define(f"{name}({arguments}) -> ({results})", tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, without_autocast(implementation), "CompositeExplicitAutograd")
        operator = getattr(torch.ops.fastrnn, name).default
        torch.library.register_fake(f"fastrnn::{name}", fake, lib=LIBRARY)
        rule = vmap.rule(operator, axes)
        torch.library.register_vmap(f"fastrnn::{name}", rule, lib=LIBRARY)
        return operator

    def __call__(
        self,
        pre: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        ragged: Ragged,
        *options: Any,  # activation, reverse_from, and those of the operator itself
    ) -> tuple[Tensor, Tensor]:
        arguments = pre, weight_hh, h0, *ragged, *options
        if not is_eager():
            return self.operator(*arguments)
        out, h_n, *_ = _Eager.apply(self, *arguments)
        return out, h_n

    def gradients(
        self, ctx: Any, saved: tuple[Any, ...], grad_out: Tensor, grad_h_n: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Of the forward's tensors, given what it saved: out and all of its tensors but pre."""
        out, weight_hh, h0, *given = saved
        grad_pre, grad_h0 = self.backward_operator(
            grad_out, grad_h_n, out, weight_hh, h0, *given, *ctx.options
        )
        grad_weight = None
        if ctx.needs_input_grad[ctx.first + 1]:
            product = without_autocast(weight_hh_grad)
            grad_weight = product(grad_pre, out, h0, Ragged(*given), ctx.options[1])
        return grad_pre, grad_weight, grad_h0, None, None, None, *(None for _ in ctx.options)

    def _backward(
        self, ctx: Any, grad_out: Tensor | None, grad_h_n: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        out, _, h0, *_ = saved
        ctx.first = 0
        return self.gradients(
            ctx, saved, add_gradients(grad_out, like=out), add_gradients(grad_h_n, like=h0)
        )

    def _linear_backward(self, *own: Any) -> Callable[..., tuple[Tensor, Tensor]]:
        """The backward as `jvp` calls it: with Ragged, and without our own options."""

        def call(*arguments: Any) -> tuple[Tensor, Tensor]:
            *tensors, ragged, activation, reverse_from = arguments
            return self.backward_operator(*tensors, *ragged, activation, reverse_from, *own)

        return call

    def _jvp(self, ctx: Any, saved: list[Any], *tangents: Any) -> tuple[Tensor, Tensor]:
        activation, reverse_from, *own = ctx.options
        tensors, ragged = saved[:-3], Ragged(*saved[-3:])
        backward = self._linear_backward(*own)
        options = ragged, activation, reverse_from
        return jvp.forward(backward, *tangents[:3], *tensors, *options)  # type: ignore[call-arg]

    def _backward_jvp(self, ctx: Any, saved: list[Any], *tangents: Any) -> tuple[Tensor, Tensor]:
        activation, reverse_from, *own = ctx.options
        tensors, ragged = saved[:-3], Ragged(*saved[-3:])
        backward = self._linear_backward(*own)
        options = ragged, activation, reverse_from
        return jvp.backward(backward, *tangents[:4], *tensors, *options)  # type: ignore[call-arg]


def _double_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    _, *tensors = ctx.saved_tensors
    differentiable, ragged = tensors[:5], Ragged(*tensors[5:])
    backward = without_autocast(reference.backward)
    outputs, vjp = torch.func.vjp(
        lambda *real: backward(*real, ragged, *ctx.options[:2]), *differentiable
    )[:2]
    cotangents = [add_gradients(grad, like=x) for grad, x in zip(grads, outputs, strict=True)]
    return *vjp(tuple(cotangents)), None, None, None, *(None for _ in ctx.options)


class _Eager(torch.autograd.Function):
    """The derivatives of an operator in eager mode."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, *inputs: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            out, h_n = operator.operator(*inputs)
            kept = copy_on_write(out)
        ctx.operator, ctx.first = operator, 1
        _, *tensors = inputs[: len(vmap.FORWARD)]
        ctx.options = inputs[len(vmap.FORWARD) :]
        ctx.save_for_backward(kept, *tensors)
        ctx.set_materialize_grads(False)
        return out, h_n, *(() if kept is out else (kept,))

    @staticmethod
    @below_autograd_once
    def backward(
        ctx: Any,
        saved: tuple[Any, ...],
        grad_out: Tensor | None,
        grad_h_n: Tensor | None,
        grad_kept: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        out, _, h0, *_ = saved
        grads = add_gradients(grad_out, grad_kept, like=out), add_gradients(grad_h_n, like=h0)
        return None, *ctx.operator.gradients(ctx, saved, *grads)


#: By the best backend, and by the one whose number is the last argument.
recurrence = Operator("recurrence", "", dispatch.forward, dispatch.backward)
recurrence_by = Operator(
    "recurrence_by", ", int backend", dispatch.forward_by, dispatch.backward_by
)

# Without a gradient out may take pre's place: fresh memory for a large output costs more than a
# small layer's arithmetic.
LIBRARY.define(f"recurrence.out({_FORWARD}, *, Tensor(a!) out) -> Tensor h_n")
LIBRARY.impl("recurrence.out", without_autocast(dispatch.forward_out), "CompositeExplicitAutograd")
torch.library.register_fake(
    "fastrnn::recurrence.out",
    lambda pre, weight_hh, h0, *_, out: h0.new_empty(h0.shape),
    lib=LIBRARY,
)
recurrence_out = torch.ops.fastrnn.recurrence.out


def overrule_wrong_extension(implementations: dict[str, Callable]) -> None:
    """Serve operators on CPU tensors by these, where the wrong extension has been loaded.

    Loading it registers its kernels, before it can be asked whether it is the right one.
    """
    if cpu.EXTENSION.unavailable_reason is None or not cpu.EXTENSION.is_loaded():
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name, implementation in implementations.items():
            LIBRARY.impl(name, without_autocast(implementation), "CPU")


overrule_wrong_extension(
    {
        "recurrence": dispatch.forward,
        "recurrence_backward": dispatch.backward,
        "recurrence.out": dispatch.forward_out,
    }
)
