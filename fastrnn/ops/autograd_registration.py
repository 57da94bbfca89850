"""Reverse-mode and forward-mode autograd for an operator, under every torch.func transform.

`torch.library.register_autograd` does not support forward mode: tangents are silently dropped. It
does not support torch.func.grad either. So this module registers the kernel of the Autograd
dispatch key itself, as torch's own operators do. Every torch.func level and torch.compile dispatch
to that kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._eager import is_recording
from ._torch_private import (
    SingleLevelFunction,
    below_autograd,
    below_autograd_keys,
    is_forward_mode,
    is_transforming,
    set_forward_mode,
    single_level,
)


def register(
    library: torch.library.Library,
    operator: Any,
    count: int,
    saved: Sequence[int],
    first: int,
    backward: Callable[..., tuple[Tensor | None, ...]],
    jvp: Callable[..., tuple[Tensor | None, ...]],
    decompose: Callable[..., tuple[Tensor, ...] | None],
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] = lambda inputs: inputs,
) -> None:
    """Register the derivatives of an operator with several outputs.

    Args:
        library: the library that defines the operator.
        operator: the operator overload.
        count: the number of leading arguments that are tensors. The other arguments are
            ``ctx.options``.
        saved: the outputs that the derivatives need.
        first: the first tensor argument that `backward` needs.
        backward: a function of (ctx, *grads) that returns the gradients of the inputs. A grad is
            None for an output without one. ``ctx.saved_tensors`` holds the saved outputs and the
            tensor arguments from `first` on.
        jvp: a function of (ctx, saved, *tangents) that returns the tangents of the outputs.
            `saved` holds the saved outputs and all tensor arguments; a tangent is None for an input
            without one.
        decompose: called with the inputs if one of them has a tangent. It returns the outputs,
            computed by differentiable operations of torch, or None where `jvp` has a rule.
        prepare: called with the inputs; returns those to use where a derivative may be needed.
    """

    class Derivatives(SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
            *inputs, keyset, recording, dual = arguments
            # A Function disables both modes for its forward. Restore the caller's modes: the call
            # redispatches to the torch.func levels below this one, which record under them.
            with (
                torch.set_grad_enabled(recording),
                set_forward_mode(dual),
                below_autograd(),
            ):
                outputs = operator.redispatch(keyset & below_autograd_keys, *inputs)
            ctx.dual = dual
            ctx.options = inputs[count:]
            kept = [outputs[i] for i in saved]
            ctx.save_for_backward(*kept, *inputs[first:count])
            ctx.save_for_forward(*kept, *inputs[:count])
            ctx.set_materialize_grads(False)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            return *backward(ctx, *grads), None, None, None

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
            # Drop the tensors' own tangents at this level, and keep those of the levels below. The
            # only dual level is 0, and a compiled graph does not tell forward_ad that it is active.
            tensors = [
                x if x is None else forward_ad.unpack_dual(x, level=0).primal
                for x in ctx.saved_tensors
            ]
            with set_forward_mode(ctx.dual):
                return jvp(ctx, tensors, *tangents[:-3])

    def derivatives(keyset: Any, *inputs: Any) -> tuple[Tensor, ...]:
        modes = torch.is_grad_enabled(), is_forward_mode()
        if is_recording(*inputs[:count]) or is_transforming():
            inputs = prepare(inputs)
        if is_transforming() and any(map(_has_tangent, inputs[:count])):
            outputs = decompose(*inputs)
            if outputs is not None:
                return outputs
        # Every torch.func level calls this separately, outermost first: handle a single level.
        with single_level():
            return Derivatives.apply(*inputs, keyset, *modes)  # type: ignore[attr-defined]

    library.impl(operator, derivatives, "Autograd", with_keyset=True)


def _has_tangent(x: Tensor | None) -> bool:
    return x is not None and forward_ad.unpack_dual(x, level=0).tangent is not None
