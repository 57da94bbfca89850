"""The torch backend: the own implementation of nn.RNN, nn.LSTM and nn.GRU on any device.

`auto` uses it if none of our kernels is available and verified, or if it was measured to be faster.
So a layer is no slower than torch's without a compiler, on a GPU on which our kernels have not been
verified, or with very short sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._torch_private import has_bfloat16_products, keeps_graph
from ..arguments import State
from ..autocast import without_autocast
from ..cells import CELLS, CODES
from . import cpu
from .base import Backend, Call

#: The calls of the RNN and the GRU on the CPU for which torch's loop is faster: those with one row
#: of more than ONE_ROW_HIDDEN units and at most so many steps, in inference and in training. There
#: a product is a pass over W_hh, which our kernels first rearrange for more rows. The LSTM's
#: kernels are faster than oneDNN's, which torch runs, in all short calls
#: (`python -m benchmarks.short_calls`).
ONE_ROW_HIDDEN, ONE_ROW_STEPS = 256, (1, 3)

#: The sizes B·H² from which torch is faster in bfloat16, in inference and in training, by mode, on
#: a CPU with instructions for products of bfloat16: oneDNN uses them, and our kernels do not. For
#: the LSTM in training it is the number of rows that decides, `LSTM_ROWS`. Measured on an EPYC with
#: AVX512_BF16, for 1 to 64 rows and 64 to 512 units in one thread and two; the limits are those of
#: the thread count with which torch is faster earlier.
#:
#: They do not hold where our kernels have the same instructions, which is with AMX. These kernels
#: have not been timed on such a CPU, and not compared with oneDNN's. `auto` prefers them since the
#: reason above is gone: one product of 64 rows and 512 units takes 24.9 µs by AMX in one thread of
#: a Sapphire Rapids, 219 µs in float32 by AVX-512, as the other kernels compute it, and 379 µs by
#: AVX512_BF16. For 1 row these are 5.4, 7.8 and 5.8 µs.
BFLOAT16_SIZES = {
    "RNN_TANH": (1 << 22, 1 << 23),
    "RNN_RELU": (1 << 22, 1 << 23),
    "GRU": (1 << 22, 1 << 23),
    "LSTM": (1 << 16, 0),
}
LSTM_ROWS = 16

#: The calls for which cuDNN was more than 6% faster than FusedRNN on an H200. They have up to
#: CUDNN_HIDDEN units, with up to CUDNN_SHORT steps in float32 and float16, and up to 4 in
#: bfloat16. In float32 the limit is CUDNN_LONG steps in inference with tanh, and in training with
#: up to CUDNN_TRAINING_HIDDEN units.
#: The record: benchmarks/results/nvidia-h200/2026-11-26t10-14-2345bff-gpu.json.
CUDNN_CAPABILITY, CUDNN_HIDDEN, CUDNN_TRAINING_HIDDEN = (9, 0), 128, 100
CUDNN_SHORT, CUDNN_LONG = 255, 1024


class Torch(Backend):
    """torch's functions: ATen's loop over steps, oneDNN, cuDNN, or the device's own."""

    name = "torch"

    def unavailable_reason(self) -> None:
        """None: it is available wherever torch is."""

    def unsupported_reason(self, call: Call) -> str | None:
        """Why torch has no such cell, or None. The caller checks the rest of the call."""
        if CELLS[CODES[call.mode]].is_leaky:
            return "torch's layers have no leak"
        return None

    def slower_reason(self, call: Call) -> str | None:
        """Why our kernels, if there are any, are faster, or None."""
        kind = call.device.type
        if kind == "cpu":
            shape = call.steps, call.batch, call.hidden
            if is_faster_on_cpu(call.mode, *shape, call.dtype, call.training):
                return None
            if call.dtype == torch.bfloat16 and cpu.multiplies_bfloat16():
                return "the CPU kernels multiply bfloat16 with AMX, as oneDNN does"
            if call.dtype.itemsize == 2:
                return "the CPU kernels are faster, except in large calls where oneDNN has bfloat16"
            return "the CPU kernels are faster, except for a few steps of one row of many units"
        if kind == "cuda" and not _cudnn_is_faster(call):
            return "the H200 record does not show cuDNN to be more than 6% faster for such a call"
        return None

    def detail(self) -> str:
        """One line for the doctor's table."""
        return f"torch's own implementation of the layers, torch {torch.__version__}"


BACKEND = Torch()


def is_faster_on_cpu(
    mode: str, steps: int, batch: int, hidden: int, dtype: torch.dtype, training: bool
) -> bool:
    """Whether torch's own implementation is faster than our kernels for dense input on the CPU."""
    if dtype.itemsize > 2:
        one_row = batch == 1 and hidden > ONE_ROW_HIDDEN and mode != "LSTM"
        return one_row and steps <= ONE_ROW_STEPS[training]
    # torch's own operations round more often than the kernels: not for few steps only.
    if dtype != torch.bfloat16 or not has_bfloat16_products() or cpu.multiplies_bfloat16():
        return False
    if mode == "LSTM" and training:
        return batch >= LSTM_ROWS
    return batch * hidden**2 >= BFLOAT16_SIZES[mode][training]


def _cudnn_is_faster(call: Call) -> bool:
    if call.mode in ("LSTM", "GRU"):
        return True  # there are no kernels of ours
    if call.capability != CUDNN_CAPABILITY or call.hidden > CUDNN_HIDDEN:
        return False
    if call.dtype == torch.bfloat16:
        return call.steps <= 4
    if call.dtype not in (torch.float32, torch.float16):
        return False
    if call.steps <= CUDNN_SHORT:
        return True
    if call.dtype == torch.float16 or call.steps > CUDNN_LONG:
        return False
    return call.hidden <= CUDNN_TRAINING_HIDDEN if call.training else call.mode == "RNN_TANH"


def stack(
    input: Tensor,  # [T, B, I], or [N, I] with batch_sizes
    hx: State | None,  # [D·L, B, H] each
    weights: Sequence[Tensor],
    mode: str,
    bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_sizes: Tensor | None = None,  # [T], on the CPU
) -> tuple[Tensor, State]:
    """Run a stack of layers with torch's own implementation: return output and last states."""
    if hx is None:
        states = num_layers * (2 if bidirectional else 1)
        batch = input.shape[1] if batch_sizes is None else int(batch_sizes[0])
        h = c = input.new_zeros(states, batch, weights[1].shape[1])
    else:
        h, c = hx
    function: Any = getattr(torch, _FUNCTIONS[mode])
    if input.is_cuda:
        # cuDNN rejects non-contiguous states, such as a learned one, expanded over the batch.
        h, c = h.contiguous(), None if c is None else c.contiguous()
        function = partial(_without_autocast, function)
    given = (h, c) if mode == "LSTM" else h
    options = bias, num_layers, dropout, training, bidirectional
    if batch_sizes is not None:
        output, *last = function(input, batch_sizes, given, weights, *options)
    else:
        output, *last = function(input, given, weights, *options, False)
    return output, State(*last)


_FUNCTIONS = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru"}


@without_autocast
def _without_autocast(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run cuDNN without autocast, which casts to float16 even if its dtype is bfloat16."""
    return function(*arguments)


def is_differentiable_only_once(input: Tensor) -> bool:
    """Whether torch uses cuDNN for the tensor's layers: its backward has no derivative."""
    return input.is_cuda


class _DifferentiableOnce(torch.autograd.Function):
    """A function that torch can differentiate only once, such as cuDNN's.

    `run` and `differentiable` compute the same outputs from the same tensors. The backward
    differentiates `run`, or `differentiable` if the gradient itself must be differentiable.
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
        needs_grad = ctx.needs_input_grad[2:]
        tensors, create_graph = ctx.saved_tensors, torch.is_grad_enabled()
        outputs = ctx.differentiable(*tensors) if create_graph else ctx.outputs
        sources = tensors if create_graph else ctx.leaves
        inputs = [x for x, needed in zip(sources, needs_grad, strict=True) if needed]
        retain_graph = create_graph or keeps_graph()
        gradients = iter(
            torch.autograd.grad(outputs, inputs, grads, retain_graph, create_graph=create_graph)
        )
        if not retain_graph:
            del ctx.outputs, ctx.leaves
        return None, None, *(next(gradients) if needed else None for needed in needs_grad)


def differentiable_once(
    run: Callable[..., tuple[Tensor, ...]],
    differentiable: Callable[..., tuple[Tensor, ...]],
    *tensors: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return run(*tensors), with the second derivative of `differentiable`.

    For a stack, both return output, h_n and, for the LSTM, c_n.
    """
    results: tuple[Tensor, ...] = _DifferentiableOnce.apply(run, differentiable, *tensors)
    return results
