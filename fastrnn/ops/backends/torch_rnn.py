"""The torch backend: nn.RNN's own implementation of a layer, whatever torch has on a device.

`auto` takes it where no kernel of ours is available and verified, and where a measurement says
that it is faster. So nobody loses by using FusedRNN: not without a compiler, on a GPU that our
kernels have not seen, or with very short sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._torch_private import keeps_graph
from ..autocast import without_autocast
from .base import Backend, Call

#: Up to so many steps training on the CPU takes torch's loop: a kernel saves less than its autograd
#: node costs. At 4 steps the kernel is slower for few rows, at 5 as fast, from 6 on faster
#: (`python -m benchmarks.short_calls`). In inference only a single step takes it, so that the bits
#: of longer sequences do not depend on their length.
FEW_STEPS = 4

#: Where cuDNN was faster than FusedRNN on an H200, by more than 6%, with up to CUDNN_HIDDEN units:
#: up to CUDNN_SHORT steps in float32 and float16, and up to FEW_STEPS in bfloat16; and in float32
#: up to CUDNN_LONG steps, in inference with tanh, in training with up to CUDNN_TRAINING_HIDDEN.
#: The record: benchmarks/results/nvidia-h200/2026-11-26t10-14-2345bff-gpu.json.
CUDNN_CAPABILITY, CUDNN_HIDDEN, CUDNN_TRAINING_HIDDEN = (9, 0), 128, 100
CUDNN_SHORT, CUDNN_LONG = 255, 1024


class Torch(Backend):
    """`torch.rnn_tanh` and `rnn_relu`: ATen's loop over steps, cuDNN, or what a device has."""

    name = "torch"

    def unavailable_reason(self) -> None:
        """It is usable wherever torch is."""

    def unsupported_reason(self, call: Call) -> None:
        """It serves every layer that nn.RNN can express, which `expresses` tells."""

    def slower_reason(self, call: Call) -> str | None:
        """Whether our kernels, where there are any, are faster."""
        kind = call.device.type
        if kind == "cpu":
            if is_short(call.steps, call.dtype, call.training):
                return None
            few = FEW_STEPS if call.training else 1
            return f"from {few + 1} steps on, and in half precision, the CPU kernels are faster"
        if kind == "cuda" and not _cudnn_is_faster(call):
            return "the H200's record does not show cuDNN to be more than 6% faster for such a call"
        return None

    def detail(self) -> str:
        """One line for the doctor's table."""
        return f"nn.RNN's own implementation, torch {torch.__version__}"


BACKEND = Torch()


def is_short(steps: int, dtype: torch.dtype, training: bool) -> bool:
    """Whether a call on the CPU has too few steps for the CPU kernels."""
    # In half precision torch's own operations round more often than the kernels do.
    return steps <= (FEW_STEPS if training else 1) and dtype.itemsize > 2


def _cudnn_is_faster(call: Call) -> bool:
    if call.capability != CUDNN_CAPABILITY or call.hidden > CUDNN_HIDDEN:
        return False
    if call.dtype == torch.bfloat16:
        return call.steps <= FEW_STEPS
    if call.dtype not in (torch.float32, torch.float16):
        return False
    if call.steps <= CUDNN_SHORT:
        return True
    if call.dtype == torch.float16 or call.steps > CUDNN_LONG:
        return False
    return call.hidden <= CUDNN_TRAINING_HIDDEN if call.training else call.mode == "RNN_TANH"


def stack(
    input: Tensor,  # [T, B, I], or [N, I] with batch_sizes
    h0: Tensor | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    activation: str,
    bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_sizes: Tensor | None = None,  # [T], on the CPU
) -> tuple[Tensor, Tensor]:
    """A stack of layers by nn.RNN's own implementation: output and h_n."""
    if h0 is None:
        states = num_layers * (2 if bidirectional else 1)
        batch = input.shape[1] if batch_sizes is None else int(batch_sizes[0])
        h0 = input.new_zeros(states, batch, weights[1].shape[0])
    loop: Any = torch.rnn_tanh if activation == "tanh" else torch.rnn_relu
    if input.is_cuda:
        # cuDNN refuses other states, such as a learned one, which is expanded over the batch.
        h0, loop = h0.contiguous(), partial(_without_autocast, loop)
    options = bias, num_layers, dropout, training, bidirectional
    if batch_sizes is not None:
        result = loop(input, batch_sizes, h0, weights, *options)
    else:
        result = loop(input, h0, weights, *options, False)
    output, h_n = result
    return output, h_n


@without_autocast
def _without_autocast(loop: Callable[..., Any], *arguments: Any) -> Any:
    """cuDNN's loop: autocast would cast all to float16, even where bfloat16 was asked for."""
    return loop(*arguments)


def is_differentiable_only_once(input: Tensor) -> bool:
    """Whether torch serves the tensor's layers by cuDNN, whose backward has no derivative."""
    return input.is_cuda


class _DifferentiableOnce(torch.autograd.Function):
    """A function that torch differentiates once, as cuDNN's: the second time by another.

    `run` and `differentiable` compute the same outputs from the same tensors. The gradient is that
    of `run`, unless it is to be differentiated again.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Callable[..., Any], differentiable: Callable[..., Any], *tensors: Any
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            ctx.leaves = [
                x if x is None else x.detach().requires_grad_(x.requires_grad) for x in tensors
            ]
            ctx.outputs = run(*ctx.leaves)
        ctx.differentiable = differentiable
        ctx.save_for_backward(*tensors)
        return tuple(x.detach() for x in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        tensors, again = ctx.saved_tensors, torch.is_grad_enabled()
        outputs = ctx.differentiable(*tensors) if again else ctx.outputs
        sources = tensors if again else ctx.leaves
        needed = [x for x, is_wanted in zip(sources, wanted, strict=True) if is_wanted]
        keep = again or keeps_graph()
        found = iter(torch.autograd.grad(outputs, needed, grads, keep, create_graph=again))
        if not keep:
            del ctx.outputs, ctx.leaves
        return None, None, *(next(found) if is_wanted else None for is_wanted in wanted)


def differentiable_once(
    run: Callable[..., Any], differentiable: Callable[..., Any], *tensors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """run(*tensors), whose second derivative is that of `differentiable`."""
    output, h_n = _DifferentiableOnce.apply(run, differentiable, *tensors)
    return output, h_n
