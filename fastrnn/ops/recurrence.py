"""The operator ``fastrnn::recurrence``: schema, fake, autograd and implementation, each once.

One schema serves all cells: LSTM, GRU and nn.RNN's. The backends know nothing of autograd. A
separate operator, ``fastrnn::recurrence_backward``, computes the gradients of pre and of the
states. One matrix product after it computes the gradient of weight_hh. A cell with several gates
saves them, and an inner value, for its backward: they are results of the forward, and their
gradients exist in second derivatives only. Double backward differentiates the backward of the
reference.

``fastrnn::recurrence`` runs on the backend that `dispatch` selects. On CPU tensors the extension
implements it directly: a detour through Python costs more than the work of a short call.
``fastrnn::recurrence_by`` runs on a given backend. ``fastrnn::recurrence.out`` fills tensors of the
caller, which may be pre itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd_registration, jvp, reference, vmap
from ._eager import add_gradients, below_autograd_once, copy_on_write, is_eager
from ._torch_private import below_autograd, builtin
from .arguments import (
    COUNT,
    TENSORS,
    Arguments,
    Gradients,
    Outputs,
    State,
    with_empty,
    without_empty,
)
from .autocast import without_autocast
from .backends import cpu, dispatch
from .cells import CELLS
from .cells.base import Step
from .ragged import Ragged
from .weight_grad import weight_hh_grad

#: The library that defines our operators; it must outlive all of them.
LIBRARY = torch.library.Library("fastrnn", "DEF")

_ARGUMENTS = (
    "Tensor weight_hh, Tensor h0, Tensor? c0, Tensor? unit_param, Tensor? lengths, "
    "Tensor? offsets, Tensor? resets, Tensor? reset_h, Tensor? reset_c, int mode, int reverse_from"
)
_FORWARD = f"Tensor pre, {_ARGUMENTS}"
_BACKWARD = (
    "Tensor grad_out, Tensor grad_h_n, Tensor? grad_c_n, Tensor out, Tensor? gates, Tensor? inner, "
    + _ARGUMENTS
)


def _fake(pre: Tensor, *given: Any) -> tuple[Tensor, ...]:
    arguments, save = Arguments(*given[:COUNT]), given[COUNT]
    cell, h0 = CELLS[arguments.mode], arguments.h0
    out = pre.new_empty((*pre.shape[:-1], h0.shape[-1]))
    results: list[Tensor | None] = [out, h0.new_empty(h0.shape), None, None, None]
    if cell.has_c:
        results[2] = h0.new_empty(h0.shape)
    if cell.saves and save:
        results[3] = pre.new_empty(pre.shape)
        results[4] = out.new_empty(out.shape) if cell.has_inner else None
    return with_empty(results, like=pre)


def _fake_backward(
    grad_out: Tensor, grad_h_n: Tensor, grad_c_n: Tensor | None, out: Tensor, *given: Any
) -> tuple[Tensor, ...]:
    arguments = Arguments(*given[2 : 2 + COUNT])
    cell = CELLS[arguments.mode]
    states = arguments.h0, arguments.c0, arguments.reset_h, arguments.reset_c
    h0, c0, *resets = (None if x is None else x.new_empty(x.shape) for x in states)
    grad_pre = out.new_empty((*out.shape[:-1], cell.gates * out.shape[-1]))
    unit_param = out.new_empty(out.shape) if cell.has_unit_param else None
    return with_empty((grad_pre, h0, c0, unit_param, *resets), like=out)


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
            name,
            f"{_FORWARD}, bool save{options}",
            forward,
            _fake,
            vmap.FORWARD,
            "Tensor out, Tensor h_n, Tensor c_n, Tensor gates, Tensor inner",
        )
        self.backward_operator = self._define(
            f"{name}_backward",
            _BACKWARD + options,
            backward,
            _fake_backward,
            vmap.BACKWARD,
            "Tensor grad_pre, Tensor grad_h0, Tensor grad_c0, Tensor grad_unit_param, "
            "Tensor grad_reset_h, Tensor grad_reset_c",
        )
        autograd_registration.register(
            LIBRARY,
            self.operator,
            count=len(vmap.FORWARD),
            saved=(0, 3, 4),
            first=1,
            backward=self._backward,
            jvp=without_autocast(self._jvp),
            decompose=without_autocast(_decompose),
            prepare=_with_save,
        )
        autograd_registration.register(
            LIBRARY,
            self.backward_operator,
            count=len(vmap.BACKWARD),
            saved=(0,),
            first=0,
            backward=_double_backward,
            jvp=without_autocast(self._backward_jvp),
            decompose=without_autocast(_decompose_backward),
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
        arguments: Arguments,
        save: bool,  # whether the backward may be needed; for an eager call
        *options: Any,  # the operator's further options
    ) -> Outputs:
        if not is_eager():
            # The kernel of the Autograd key saves where a derivative may be needed, so that a
            # traced program does not depend on the gradient mode of its trace.
            return Outputs(*without_empty(self.operator(pre, *arguments, False, *options)))
        *results, _ = _Eager.apply(self, pre, *arguments, save, *options)
        return Outputs(*results)

    def gradients(
        self, ctx: Any, saved: tuple[Any, ...], grads: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the forward's inputs from those of its results.

        `saved` are the tensors that the forward saved: out, gates, inner and all its tensor inputs
        except pre.
        """
        out, gates, inner, *tensors = saved
        arguments = Arguments(*tensors, *ctx.options[:2])
        grad_out = add_gradients(grads[0], like=out)
        grad_h_n = add_gradients(grads[1], like=arguments.h0)
        all_grads = Outputs(grad_out, grad_h_n, *grads[2:])
        results = self.backward(
            all_grads, Step(State(out), gates, inner), arguments, *ctx.options[3:]
        )
        grad_weight = grad_unit_param = None
        if ctx.needs_input_grad[ctx.first + 1]:
            grad_weight = without_autocast(weight_hh_grad)(results, out, arguments)
        if results.unit_param is not None and ctx.needs_input_grad[ctx.first + 4]:
            grad_unit_param = results.unit_param.sum(tuple(range(out.dim() - 2)))
        states = results.h0, results.c0, grad_unit_param
        resets = results.reset_h, results.reset_c
        options = (None,) * len(ctx.options)
        return results.pre, grad_weight, *states, None, None, None, *resets, *options

    def backward(
        self, grads: Outputs, saved: Step, arguments: Arguments, *options: Any
    ) -> Gradients:
        """Run the backward operator, or the reference if saved values have gradients.

        They have in a second derivative only.
        """
        if grads.gates is not None or grads.inner is not None:
            return without_autocast(reference.backward)(grads, saved, arguments)
        given = *grads[:3], saved.state.h, saved.gates, saved.inner, *arguments, *options
        results = self.backward_operator(*given)
        if not CELLS[arguments.mode].saves and arguments.reset_h is None:
            return Gradients(results[0], results[1])
        return Gradients(*without_empty(results))

    def _backward(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        out, gates, inner, *tensors = ctx.saved_tensors
        ctx.first = 0
        saved = out, *without_empty((gates, inner)), *tensors
        return self.gradients(ctx, saved, without_empty(grads))

    def _linear_backward(self, *extra: Any) -> Callable[..., tuple[Tensor, Tensor]]:
        """Return the backward operator of nn.RNN's cells in the form that `jvp` calls."""

        def call(
            grad_out: Tensor,
            grad_h_n: Tensor,
            out: Tensor,
            weight_hh: Tensor,
            h0: Tensor,
            ragged: Ragged,
            *options: int,
        ) -> tuple[Tensor, Tensor]:
            given = grad_out, grad_h_n, None, out, None, None, weight_hh, h0, None, None
            return self.backward_operator(*given, *ragged, None, None, *options, *extra)[:2]

        return call

    def _jvp(self, ctx: Any, saved: list[Any], *tangents: Any) -> tuple[Tensor | None, ...]:
        out, _, _, *tensors = saved
        options = ctx.options[:2]
        arguments = Arguments(*tensors[1:], *options)
        given = out, arguments.weight_hh, arguments.h0, arguments.ragged()
        backward = self._linear_backward(*ctx.options[3:])
        results = jvp.forward(backward, *tangents[:3], *given, *options)  # type: ignore[call-arg]
        return with_empty((*results, None, None, None), like=out)

    def _backward_jvp(
        self, ctx: Any, saved: list[Any], *tangents: Any
    ) -> tuple[Tensor | None, ...]:
        grad_pre, *tensors = saved
        grad_out, grad_h_n, _, out, _, _, *rest = tensors
        options = ctx.options[:2]
        arguments = Arguments(*rest, *options)
        given = grad_pre, grad_out, grad_h_n, out, arguments.weight_hh, arguments.h0
        dgrad_out, dgrad_h_n, _, dout, _, _, dweight, *_ = tangents
        of_inputs = dgrad_out, dgrad_h_n, dout, dweight
        linear = self._linear_backward(*ctx.options[2:])
        results = jvp.backward(linear, *of_inputs, *given, arguments.ragged(), *options)
        return with_empty((*results, None, None, None, None), like=out)


def _with_save(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the forward's inputs with save on."""
    return *inputs[: 1 + COUNT], True, *inputs[2 + COUNT :]


def _has_rule(arguments: Arguments) -> bool:
    """Whether `jvp` has rules for a call, by which the kernels compute its tangents.

    Elsewhere torch differentiates the operations of the reference.
    """
    return not CELLS[arguments.mode].saves and arguments.reset_h is None


def _decompose(pre: Tensor, *given: Any) -> tuple[Tensor, ...] | None:
    arguments = Arguments(*given[:COUNT])
    if _has_rule(arguments):
        return None
    return with_empty(reference.forward(pre, arguments), like=pre)


def _decompose_backward(*given: Any) -> tuple[Tensor, ...] | None:
    tensors, options = given[: len(vmap.BACKWARD)], given[len(vmap.BACKWARD) :]
    if _has_rule(Arguments(*tensors[-TENSORS:], *options[:2])):
        return None
    return with_empty(_reference_backward(tensors, *options[:2]), like=tensors[0])


def _reference_backward(tensors: Sequence[Any], *options: int) -> Gradients:
    """Compute `reference.backward` from the tensors of the backward operator."""
    grad_out, grad_h_n, grad_c_n, out, gates, inner, *rest = tensors
    grads, saved = Outputs(grad_out, grad_h_n, grad_c_n), Step(State(out), gates, inner)
    return reference.backward(grads, saved, Arguments(*rest, *options))


@without_autocast
def _double_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    """Differentiate the reference's backward with respect to all its real inputs."""
    _, *tensors = ctx.saved_tensors
    real = [i for i, x in enumerate(tensors) if x is not None and x.is_floating_point()]

    def backward(*chosen: Tensor) -> tuple[Tensor, ...]:
        given = list(tensors)
        for i, x in zip(real, chosen, strict=True):
            given[i] = x
        return with_empty(_reference_backward(given, *ctx.options[:2]), like=given[0])

    results, vjp = torch.func.vjp(backward, *(tensors[i] for i in real))[:2]
    pairs = zip(without_empty(grads), results, strict=True)
    cotangents = (add_gradients(grad, like=x) for grad, x in pairs)
    gradients: list[Tensor | None] = [None] * len(tensors)
    for i, gradient in zip(real, vjp(tuple(cotangents)), strict=True):
        gradients[i] = gradient
    return *gradients, *(None for _ in ctx.options)


class _Eager(torch.autograd.Function):
    """The autograd Function of an operator in eager mode."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, *inputs: Any) -> tuple[Tensor | None, ...]:
        with below_autograd():
            results = Outputs(*without_empty(operator.operator(*inputs)))
            saved_out = copy_on_write(results.out)
        ctx.operator, ctx.first = operator, 1
        ctx.options = inputs[len(vmap.FORWARD) :]
        tensors = inputs[1 : len(vmap.FORWARD)]
        ctx.save_for_backward(saved_out, results.gates, results.inner, *tensors)
        ctx.set_materialize_grads(False)
        return *results, None if saved_out is results.out else saved_out

    @staticmethod
    @below_autograd_once
    def backward(
        ctx: Any, saved: tuple[Any, ...], grad_out: Tensor | None, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *grads_of_others, grad_saved_out = grads
        if grad_saved_out is not None:
            grad_out = add_gradients(grad_out, grad_saved_out, like=saved[0])
        return None, *ctx.operator.gradients(ctx, saved, (grad_out, *grads_of_others))


#: On the selected backend, and on the backend whose number is the last argument.
recurrence = Operator("recurrence", "", dispatch.forward, dispatch.backward)
recurrence_by = Operator(
    "recurrence_by", ", int backend", dispatch.forward_by, dispatch.backward_by
)

# Without a gradient, out may reuse the memory of pre, and with one the saved gates may: allocating
# a large output costs more than the arithmetic of a small layer.
LIBRARY.define(
    f"recurrence.out({_FORWARD}, *, Tensor(a!) out, Tensor(b!)? c_n=None, Tensor(c!)? gates=None, "
    "Tensor(d!)? inner=None) -> Tensor h_n"
)
LIBRARY.impl("recurrence.out", without_autocast(dispatch.forward_out), "CompositeExplicitAutograd")
torch.library.register_fake(
    "fastrnn::recurrence.out",
    lambda pre, weight_hh, h0, *_, **__: h0.new_empty(h0.shape),
    lib=LIBRARY,
)
recurrence_out = builtin(torch.ops.fastrnn.recurrence.out)


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
