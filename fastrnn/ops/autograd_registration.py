"""Both modes of differentiation for an operator, under every transform of torch.func.

`torch.library.register_autograd` knows no forward mode: a tangent is lost without a word. Nor does
it go with torch.func.grad. So this registers the kernel of the dispatch key Autograd itself, as
torch's own operators have one: every level of torch.func, and torch.compile, come by there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._torch_private import (
    SingleLevelFunction,
    below_autograd,
    below_autograd_keys,
    is_forward_mode,
    set_forward_mode,
    single_level,
)


def register(
    library: torch.library.Library,
    operator: Any,
    count: int,
    without_first: bool,
    backward: Callable[..., tuple[Tensor | None, ...]],
    jvp: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    """Register the derivatives of an operator with two outputs.

    The derivatives are given, as saved tensors, the first output and the arguments that are
    tensors; the other arguments are ``ctx.options``.

    Args:
        count: how many of the arguments, from the first on, are tensors.
        without_first: whether the first of these is not needed, nor saved.
        backward: of (ctx, *grads), the gradients of the inputs; no grad is None.
        jvp: of (ctx, saved, *tangents), the tangents of the outputs; `saved` are the tensors
            saved, and a tangent is None for an input that has none.
    """

    first = 1 if without_first else 0

    class Derivatives(SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
            *inputs, keyset, recording, dual = arguments
            # A Function switches both modes off, for itself; the levels of torch.func below this
            # one, which the call goes on to, record as the caller has it.
            with (
                torch.set_grad_enabled(recording),
                set_forward_mode(dual),
                below_autograd(),
            ):
                outputs = operator.redispatch(keyset & below_autograd_keys, *inputs)
            ctx.dual = dual
            ctx.options = inputs[count:]
            tensors = [outputs[0], *inputs[first:count]]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)
            ctx.set_materialize_grads(False)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            return *backward(ctx, *grads), None, None, None

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
            # Without their own tangents at this level; those of the levels below count. There is
            # but one dual level, 0, and a compiled graph does not tell forward_ad that it is on.
            saved = [
                x if x is None else forward_ad.unpack_dual(x, level=0).primal
                for x in ctx.saved_tensors
            ]
            with set_forward_mode(ctx.dual):
                return jvp(ctx, saved, *tangents[:-3])

    def derivatives(keyset: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        modes = torch.is_grad_enabled(), is_forward_mode()
        # Every level of torch.func comes here by itself, outermost first: one at a time.
        with single_level():
            return Derivatives.apply(*inputs, keyset, *modes)  # type: ignore[attr-defined]

    library.impl(operator, derivatives, "Autograd", with_keyset=True)
