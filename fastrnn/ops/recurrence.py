"""The operator ``fastrnn::recurrence``: schema, fake, autograd and implementation, each once.

The backends know nothing of autograd. A separate operator, ``fastrnn::recurrence_backward``,
computes the gradients of pre and h0. One matrix product after it computes the gradient of
weight_hh. Double backward differentiates the backward of the reference.

``fastrnn::recurrence`` runs on the backend that `dispatch` selects. On CPU tensors the extension
implements it directly: a detour through Python costs more than the work of a short call.
``fastrnn::recurrence_by`` runs on a given backend. ``fastrnn::recurrence.out`` fills a tensor that
may be pre itself.
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

#: The library that defines our operators; it must outlive all of them.
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
    """``fastrnn::name`` and ``fastrnn::name_backward``, registered with torch.

    A call runs the operator, in eager mode with a lower-overhead autograd.

    Args:
        name: the name of the forward operator.
        options: further arguments at the end of both schemas.
        forward, backward: the implementations for devices without a registered kernel.
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
        *options: Any,  # activation, reverse_from and the operator's further options
    ) -> tuple[Tensor, Tensor]:
        arguments = pre, weight_hh, h0, *ragged, *options
        if not is_eager():
            return self.operator(*arguments)
        out, h_n, *_ = _Eager.apply(self, *arguments)
        return out, h_n

    def gradients(
        self, ctx: Any, saved: tuple[Any, ...], grad_out: Tensor, grad_h_n: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the forward's inputs.

        `saved` are the tensors that the forward saved: out and all its tensor inputs except pre.
        """
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

    def _linear_backward(self, *extra: Any) -> Callable[..., tuple[Tensor, Tensor]]:
        """Return the backward operator in the form that `jvp` calls.

        It takes a Ragged, and binds the operator's further options, `extra`.
        """

        def call(*arguments: Any) -> tuple[Tensor, Tensor]:
            *tensors, ragged, activation, reverse_from = arguments
            return self.backward_operator(*tensors, *ragged, activation, reverse_from, *extra)

        return call

    def _jvp(self, ctx: Any, saved: list[Any], *tangents: Any) -> tuple[Tensor, Tensor]:
        activation, reverse_from, *extra = ctx.options
        tensors, ragged = saved[:-3], Ragged(*saved[-3:])
        backward = self._linear_backward(*extra)
        options = ragged, activation, reverse_from
        return jvp.forward(backward, *tangents[:3], *tensors, *options)  # type: ignore[call-arg]

    def _backward_jvp(self, ctx: Any, saved: list[Any], *tangents: Any) -> tuple[Tensor, Tensor]:
        activation, reverse_from, *extra = ctx.options
        tensors, ragged = saved[:-3], Ragged(*saved[-3:])
        backward = self._linear_backward(*extra)
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
    """The autograd Function of an operator in eager mode."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, *inputs: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            out, h_n = operator.operator(*inputs)
            saved_out = copy_on_write(out)
        ctx.operator, ctx.first = operator, 1
        _, *tensors = inputs[: len(vmap.FORWARD)]
        ctx.options = inputs[len(vmap.FORWARD) :]
        ctx.save_for_backward(saved_out, *tensors)
        ctx.set_materialize_grads(False)
        return out, h_n, *(() if saved_out is out else (saved_out,))

    @staticmethod
    @below_autograd_once
    def backward(
        ctx: Any,
        saved: tuple[Any, ...],
        grad_out: Tensor | None,
        grad_h_n: Tensor | None,
        grad_saved_out: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        out, _, h0, *_ = saved
        grad_out = add_gradients(grad_out, grad_saved_out, like=out)
        grad_h_n = add_gradients(grad_h_n, like=h0)
        return None, *ctx.operator.gradients(ctx, saved, grad_out, grad_h_n)


#: On the selected backend, and on the backend whose number is the last argument.
recurrence = Operator("recurrence", "", dispatch.forward, dispatch.backward)
recurrence_by = Operator(
    "recurrence_by", ", int backend", dispatch.forward_by, dispatch.backward_by
)

# Without a gradient, out may reuse the memory of pre: allocating a large output costs more than
# the arithmetic of a small layer.
LIBRARY.define(f"recurrence.out({_FORWARD}, *, Tensor(a!) out) -> Tensor h_n")
LIBRARY.impl("recurrence.out", without_autocast(dispatch.forward_out), "CompositeExplicitAutograd")
torch.library.register_fake(
    "fastrnn::recurrence.out",
    lambda pre, weight_hh, h0, *_, out: h0.new_empty(h0.shape),
    lib=LIBRARY,
)
recurrence_out = torch.ops.fastrnn.recurrence.out


def overrule_wrong_extension(implementations: dict[str, Callable]) -> None:
    """Override operators on CPU tensors with these if an unusable extension has been loaded.

    Loading an extension registers its kernels before its version can be checked.
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
