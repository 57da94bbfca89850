"""One step of a stack of layers by the operators, without recording a gradient.

A streaming model calls it once per sample. For a small layer, the computation takes less time than
the general path needs to prepare the call. The operators are the same as for a sequence, so the
results agree bit for bit.
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
    weights: Sequence[Tensor],  # per layer weight_ih, weight_hh and optionally two biases
    resets: Tensor | None,  # [1, B]
    activation: str,
) -> tuple[Tensor, Tensor]:
    """Return the last layer's state [B, H] and all states [L, B, H]; all tensors must be plain."""
    layers, batch, hidden = hx.shape
    heads = weights[1].shape[0] if weights[1].dim() == 3 else 1
    count = len(weights) // layers
    linear = torch.ops.fastrnn.linear.default if input.is_cpu else F.linear
    state_shape = batch, heads, hidden // heads
    options = ACTIVATION_CODES[activation], heads
    last_states = []
    with below_views():
        for layer, state in enumerate(hx.reshape(layers, *state_shape).unbind()):
            layer_weights = weights[layer * count : (layer + 1) * count]
            weight_ih, weight_hh, bias = merge_directions(layer_weights, 1)
            input = linear(input, weight_ih, bias)  # recurrence_out overwrites it with the state
            pre = input.view(1, *state_shape)
            h_n = recurrence_out(pre, weight_hh, state, None, None, resets, *options, out=pre)
            last_states.append(h_n)
        h_n = last_states[0] if layers == 1 else torch.stack(last_states)
        return input, h_n.view(layers, batch, hidden)
