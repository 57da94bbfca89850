"""One step of a stack of layers, by the operators, where no gradient is recorded.

A streaming model calls it once a sample, and a small layer computes for less time than the general
way takes to prepare the call. The operators are those of a sequence, so its bits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._torch_private import below_views
from .layer import merge_directions
from .recurrence import recurrence_out
from .reference import ACTIVATION_CODES


def single_step(
    input: Tensor,  # [B, I]
    hx: Tensor,  # [L, B, H]
    weights: Sequence[Tensor],  # per layer weight_ih, weight_hh and, or not, two biases
    resets: Tensor | None,  # [1, B]
    activation: str,
) -> tuple[Tensor, Tensor]:
    """The last layer's state [B, H], and all states [L, B, H]. All tensors are plain."""
    layers, batch, hidden = hx.shape
    heads = weights[1].shape[0] if weights[1].dim() == 3 else 1
    count = len(weights) // layers
    linear = torch.ops.fastrnn.linear.default if input.is_cpu else F.linear
    in_heads = batch, heads, hidden // heads
    options = ACTIVATION_CODES[activation], heads
    last_states = []
    with below_views():
        for layer, state in enumerate(hx.reshape(layers, *in_heads).unbind()):
            of_layer = weights[layer * count : (layer + 1) * count]
            weight_ih, weight_hh, bias = merge_directions(of_layer, 1)
            input = linear(input, weight_ih, bias)  # and then, in its place, the state
            pre = input.view(1, *in_heads)
            h_n = recurrence_out(pre, weight_hh, state, None, None, resets, *options, out=pre)
            last_states.append(h_n)
        h_n = last_states[0] if layers == 1 else torch.stack(last_states)
        return input, h_n.view(layers, batch, hidden)
