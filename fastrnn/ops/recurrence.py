"""The operator ``fastrnn::recurrence``: schema, fake, autograd and implementation, each once.

The backends know nothing of autograd. The gradient of pre and h0 is an operator of its own,
``fastrnn::recurrence_backward``; the gradient of weight_hh is one matrix product after it; and
the derivative of the backward, for double backward, is the derivative of the reference's.

``fastrnn::recurrence`` is served by `dispatch`, and on CPU tensors by the extension directly,
where it is loaded: the way through Python costs more than a short call's work. For every other
backend that is asked for by name there is another pair of operators, which it alone serves or
refuses: ``fastrnn::recurrence_reference``, ``recurrence_cuda``, ``recurrence_triton``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import batching, cpp, differentiation, dispatch, reference, tangent
from .weight_gradient import weight_gradient

#: The library our operators are defined in; it must outlive them all.
LIBRARY = torch.library.Library("fastrnn", "DEF")

FORWARD = (
    "(Tensor pre, Tensor weight_hh, Tensor h0, Tensor? lengths, Tensor? offsets, "
    "Tensor? resets, int activation, int reverse_from) -> (Tensor out, Tensor h_n)"
)
BACKWARD = (
    "(Tensor grad_out, Tensor grad_h_n, Tensor out, Tensor weight_hh, Tensor h0, "
    "Tensor? lengths, Tensor? offsets, Tensor? resets, int activation, int reverse_from) "
    "-> (Tensor grad_pre, Tensor grad_h0)"
)


def _fake(pre: Tensor, weight_hh: Tensor, h0: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return pre.new_empty(pre.shape), h0.new_empty(h0.shape)


def _fake_backward(
    grad_out: Tensor, grad_h_n: Tensor, out: Tensor, weight_hh: Tensor, h0: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return out.new_empty(out.shape), h0.new_empty(h0.shape)


def _save(ctx: Any, inputs: Sequence[Any], outputs: tuple[Tensor, Tensor]) -> list[Tensor | None]:
    """What the derivatives of the forward need: out, weight_hh, h0, lengths, offsets, resets."""
    _, *tensors, ctx.activation, ctx.reverse_from = inputs
    return [outputs[0], *tensors]


def _save_backward(
    ctx: Any, inputs: Sequence[Any], outputs: tuple[Tensor, Tensor]
) -> list[Tensor | None]:
    """What the derivatives of the backward need: grad_pre, and all that it was given."""
    *tensors, ctx.activation, ctx.reverse_from = inputs
    return [outputs[0], *tensors]


def without_autocast(function: Callable) -> Callable:
    """Autocast would cast the sums inside, which have their own precision, once more."""

    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        if not torch._C._is_any_autocast_enabled():
            return function(*arguments)
        device = next(x.device.type for x in arguments if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*arguments)

    return wrapped


def _double_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    _, *tensors = ctx.saved_tensors
    differentiable, options = tensors[:5], (*tensors[5:], ctx.activation, ctx.reverse_from)
    backward = without_autocast(reference.backward)
    outputs, vjp = torch.func.vjp(lambda *real: backward(*real, *options), *differentiable)[:2]
    cotangents = [add_gradients(grad, like=x) for grad, x in zip(grads, outputs, strict=True)]
    return *vjp(tuple(cotangents)), None, None, None, None, None


def copy_on_write(output: Tensor) -> Tensor:
    """A copy for the backward, which is made only if a user writes to the output.

    nn.RNN allows that on the CPU. On a GPU, where cuDNN does not, it is the output itself: a
    Triton kernel that reads a copy would have it made.
    """
    if type(output) is Tensor and output.is_cpu:
        return torch._lazy_clone(output)
    return output


def add_gradients(*grads: Tensor | None, like: Tensor) -> Tensor:
    """The sum of the gradients that are not None: of none, zeros."""
    given = [grad for grad in grads if grad is not None]
    return sum(given[1:], given[0]) if given else torch.zeros_like(like)


def transforming() -> bool:
    """Whether something other than recording for backward is under way, of any tensor."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _register(name: str, forward: Callable, backward: Callable) -> Callable:
    """Define ``fastrnn::name`` and ``fastrnn::name_backward``; return a way to call the first."""
    for suffix, schema, fake, implementation, axes in (
        ("", FORWARD, _fake, forward, batching.FORWARD),
        ("_backward", BACKWARD, _fake_backward, backward, batching.BACKWARD),
    ):
        LIBRARY.define(name + suffix + schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name + suffix, without_autocast(implementation), "CompositeExplicitAutograd")
        qualified = f"fastrnn::{name}{suffix}"
        torch.library.register_fake(qualified, fake, lib=LIBRARY)
        batched = batching.rule(getattr(torch.ops.fastrnn, name + suffix).default, axes)
        torch.library.register_vmap(qualified, batched, lib=LIBRARY)
    operator = getattr(torch.ops.fastrnn, name).default
    backward_operator = getattr(torch.ops.fastrnn, name + "_backward").default

    def gradients(
        ctx: Any, saved: tuple[Any, ...], grad_out: Tensor, grad_h_n: Tensor
    ) -> tuple[Tensor | None, ...]:
        out, weight_hh, h0, *ragged = saved
        options = *ragged, ctx.activation, ctx.reverse_from
        grad_pre, grad_h0 = backward_operator(grad_out, grad_h_n, out, weight_hh, h0, *options)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            product = without_autocast(weight_gradient)
            grad_weight = product(grad_pre, out, h0, *ragged, ctx.reverse_from)
        return grad_pre, grad_weight, grad_h0, None, None, None, None, None

    def backward_of_forward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grad_out, grad_h_n = grads
        return gradients(
            ctx,
            saved,
            add_gradients(grad_out, like=saved[0]),
            add_gradients(grad_h_n, like=saved[2]),
        )

    def jvp(ctx: Any, saved: list[Any], *tangents: Any) -> tuple[Tensor, Tensor]:
        options = *saved, ctx.activation, ctx.reverse_from
        return tangent.forward(backward_operator, *tangents[:3], *options)

    def backward_jvp(ctx: Any, saved: list[Any], *tangents: Any) -> tuple[Tensor, Tensor]:
        options = *saved, ctx.activation, ctx.reverse_from
        return tangent.backward(backward_operator, *tangents[:4], *options)

    differentiation.register(
        LIBRARY,
        operator,
        save=_save,
        backward=backward_of_forward,
        jvp=without_autocast(jvp),
    )
    differentiation.register(
        LIBRARY,
        backward_operator,
        save=_save_backward,
        backward=_double_backward,
        jvp=without_autocast(backward_jvp),
    )

    # The way through the dispatcher's key costs a short call 70 µs for forward and backward, on a
    # machine where all else takes as long again. In eager mode this does the same.
    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                out, h_n = operator(*inputs)
                kept = copy_on_write(out)
            ctx.save_for_backward(*_save(ctx, inputs, (kept, h_n)))
            ctx.set_materialize_grads(False)
            return out, h_n, *(() if kept is out else (kept,))

        @staticmethod
        def backward(
            ctx: Any,
            grad_out: Tensor | None,
            grad_h_n: Tensor | None,
            grad_kept: Tensor | None = None,
        ) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors  # activation checkpointing records it anew, with autograd
            grads = (
                add_gradients(grad_out, grad_kept, like=saved[0]),
                add_gradients(grad_h_n, like=saved[2]),
            )
            if torch.is_grad_enabled() or transforming():  # for double backward, or a tangent
                return gradients(ctx, saved, *grads)
            with torch._C._AutoDispatchBelowAutograd():
                return gradients(ctx, saved, *grads)

    def apply(*inputs: Any) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or transforming():
            return operator(*inputs)
        out, h_n, *_ = Eager.apply(*inputs)
        return out, h_n

    return apply


recurrence = _register("recurrence", dispatch.forward, dispatch.backward)


def _register_named(name: str) -> Callable:
    """``fastrnn::recurrence_name``, served by one backend or refused."""

    def forward(pre: Tensor, weight_hh: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return dispatch.named(name, h0).forward(pre, weight_hh, h0, *rest)

    def backward(
        grad_out: Tensor, grad_h_n: Tensor, out: Tensor, weight_hh: Tensor, h0: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        module = dispatch.named(name, h0)
        return module.backward(grad_out, grad_h_n, out, weight_hh, h0, *rest)

    return _register(f"recurrence_{name}", forward, backward)


#: The operators of the backends that have their own, by the backend's name.
NAMED = {name: _register_named(name) for name in ("reference", "cuda", "triton")}


# Dense data, no gradient: out takes pre's place, which saves the fresh memory of a large output.
LIBRARY.define(
    "recurrence_(Tensor(a!) pre, Tensor weight_hh, Tensor h0, Tensor? lengths, "
    "Tensor? resets, int activation, int reverse_from) -> Tensor h_n"
)
LIBRARY.impl("recurrence_", without_autocast(dispatch.forward_), "CompositeExplicitAutograd")
torch.library.register_fake(
    "fastrnn::recurrence_", lambda pre, weight_hh, h0, *_: h0.new_empty(h0.shape), lib=LIBRARY
)
recurrence_ = torch.ops.fastrnn.recurrence_.default


def overrule_unusable(implementations: dict[str, Callable]) -> None:
    """Serve operators on CPU tensors by these, where the wrong extension has been loaded.

    Loading it registers its kernels, before it can be asked whether it is the right one.
    """
    if cpp.unusable() is None or not cpp.EXTENSION.is_loaded():
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name, implementation in implementations.items():
            LIBRARY.impl(name, without_autocast(implementation), "CPU")


overrule_unusable(
    {
        "recurrence": dispatch.forward,
        "recurrence_backward": dispatch.backward,
        "recurrence_": dispatch.forward_,
    }
)
