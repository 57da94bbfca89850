"""Both modes of differentiation for an operator, under every transform of torch.func.

`torch.library.register_autograd` knows no forward mode: a tangent is lost without a word. Nor does
it go with torch.func.grad. So this registers the kernel of the dispatch key Autograd itself, as
torch's own operators have one: every level of torch.func, and torch.compile, come by there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction


def register(
    library: torch.library.Library,
    operator: Any,
    save: Callable[[Any, Sequence[Any], tuple[Tensor, Tensor]], list[Tensor | None]],
    backward: Callable[..., tuple[Tensor | None, ...]],
    jvp: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    """Register the derivatives of an operator with two outputs.

    Args:
        save: of (ctx, inputs, outputs), the tensors that the derivatives need.
        backward: of (ctx, *grads), the gradients of the inputs; no grad is None.
        jvp: of (ctx, saved, *tangents), the tangents of the outputs; `saved` are the tensors
            saved, and a tangent is None for an input that has none.
    """

    class Derivatives(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
            *inputs, keyset, recording, dual = arguments
            # A Function switches both modes off, for itself; the levels of torch.func below this
            # one, which the call goes on to, record as the caller has it.
            with (
                torch.set_grad_enabled(recording),
                forward_ad._set_fwd_grad_enabled(dual),
                torch._C._AutoDispatchBelowAutograd(),
            ):
                outputs = operator.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)
            ctx.dual = dual
            tensors = save(ctx, inputs, outputs)
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
            with forward_ad._set_fwd_grad_enabled(ctx.dual):
                return jvp(ctx, saved, *tangents[:-3])

    def derivatives(keyset: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        modes = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        # Every level of torch.func comes here by itself, outermost first: one at a time.
        with enable_single_level_autograd_function():
            return Derivatives.apply(*inputs, keyset, *modes)  # type: ignore[attr-defined]

    library.impl(operator, derivatives, "Autograd", with_keyset=True)
