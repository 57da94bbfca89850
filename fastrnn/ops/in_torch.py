"""torch's own loops and cells, where ours cannot be faster or would not be understood.

A few steps leave too little to fuse. And what torch.jit.trace records of torch's loop can be saved
and run without fastrnn, and other tools know its nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import dispatch
from .linear import is_recording
from .recurrence import transforming

#: Up to so many steps training on the CPU takes torch's own loop: a kernel saves less than its node
#: of autograd costs. At 4 steps the kernel is slower for few rows, at 5 as fast, from 6 on faster
#: (`python -m benchmarks.short_calls`). In inference only a single step takes it, so that the bits
#: of longer sequences do not depend on their length.
FEW_STEPS = 4


def is_short(input: Tensor, h0: Tensor | None, weights: Sequence[Tensor]) -> bool:
    """Whether there are too few steps for a kernel to make up for what its call costs."""
    return (
        input.shape[0] <= FEW_STEPS
        # In half precision torch's own operations would round more often than the kernels do.
        and input.dtype.itemsize > 2
        and dispatch.requested() == "auto"
        and (input.shape[0] == 1 or is_recording(*weights, input, h0))
        and not transforming()  # for which torch's loop has no rules
    )


def stack(
    input: Tensor,  # [T, B, I]
    h0: Tensor | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    activation: str,
    bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
) -> tuple[Tensor, Tensor]:
    """The whole stack by nn.RNN's own loop: output and h_n."""
    if h0 is None:
        states = num_layers * (2 if bidirectional else 1)
        h0 = input.new_zeros(states, input.shape[1], weights[1].shape[0])
    loop: Any = torch.rnn_tanh if activation == "tanh" else torch.rnn_relu
    return loop(input, h0, weights, bias, num_layers, dropout, training, bidirectional, False)


def one_step(
    input: Tensor,  # [1, B, I]
    h0: Tensor | None,  # [1, B, H]
    weights: Sequence[Tensor],
    activation: str,
) -> tuple[Tensor, Tensor]:
    """One layer of one direction by torch's own cell: output and h_n, both [1, B, H]."""
    h = input.new_zeros(input.shape[1], weights[1].shape[0]) if h0 is None else h0[0]
    cell = torch.rnn_tanh_cell if activation == "tanh" else torch.rnn_relu_cell
    h = cell(input[0], h, *weights)[None]
    return h, h
