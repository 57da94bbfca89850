"""One step of a stack of layers by the operators, without recording a gradient.

A streaming model calls it once per sample. For a small layer, the computation takes less time than
the general path needs to prepare the call. The operators are the same as for a sequence, so the
results agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._torch_private import below_views
from .arguments import State
from .cells import CELLS, CODES
from .parameters import merge_directions
from .recurrence import recurrence_out


def single_step(
    input: Tensor,  # [B, I]
    hx: State,  # [L, B, H]
    weights: Sequence[Tensor],  # per layer as in `merge_directions`
    resets: Tensor | None,  # [1, B]
    mode: str,
) -> tuple[Tensor, State]:
    """Return the last layer's h [B, H] and all states [L, B, H]; all tensors must be plain."""
    layers, batch, hidden = hx.h.shape
    heads = weights[1].shape[0] if weights[1].dim() == 3 else 1
    count = len(weights) // layers
    linear = torch.ops.fastrnn.linear.default if input.is_cpu else F.linear
    code, state_shape = CODES[mode], (batch, heads, hidden // heads)
    cell = CELLS[code]
    rest = None, None, resets, None, None, code, heads
    h0, c0 = hx
    initial_h = h0.reshape(layers, *state_shape).unbind()
    initial_c = [None] * layers if c0 is None else c0.reshape(layers, *state_shape).unbind()
    last_h, last_c = [], list[Any]()
    with below_views():
        for layer, (h, c) in enumerate(zip(initial_h, initial_c, strict=True)):
            layer_weights = weights[layer * count : (layer + 1) * count]
            weight_ih, weight_hh, bias, unit_param = merge_directions(layer_weights, 1, cell)
            output = linear(input, weight_ih, bias)
            pre = output.view(1, batch, heads, -1)
            out, c_n = pre, c if c is None else c.new_empty(c.shape)
            if cell.gates > 1:  # otherwise the state overwrites pre
                output = output.new_empty(batch, hidden)
                out = output.view(1, *state_shape)
            given = pre, weight_hh, h, c, unit_param, *rest
            last_h.append(recurrence_out(*given, out=out, c_n=c_n))
            last_c.append(c_n)
            input = output
        h_n = last_h[0] if layers == 1 else torch.stack(last_h)
        if not cell.has_c:
            return input, State(h_n.view(hx.h.shape))
        c_n = last_c[0] if layers == 1 else torch.stack(last_c)
        return input, State(h_n.view(hx.h.shape), c_n.view(hx.h.shape))
