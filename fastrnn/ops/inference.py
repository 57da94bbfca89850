"""A stack of layers in one direction, without recording a gradient.

For few steps of a small layer, the computation takes less time than the general path needs to
prepare the call. For many steps of a large layer with several gates, its pre-activations would take
most of the memory. The operators are the same as elsewhere, so the results agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

from ._torch_private import below_views
from .arguments import State, concatenate
from .cells import CELLS, CODES
from .linear import linear_below_autograd
from .parameters import merge_directions
from .ragged import Ragged
from .recurrence import recurrence_out

#: Pre-activations of more than twice this size are computed for a part of the steps at a time, on a
#: CPU. glibc returns larger allocations to the system, so that every call pays for page faults.
PART_BYTES = 1 << 24


def infer(
    input: Tensor,  # [T, B, I], or [B, I] for one step
    hx: State | None,  # [L, B, H]
    weights: Sequence[Tensor],  # per layer as in `merge_directions`
    ragged: Ragged,  # not packed
    mode: str,
    num_layers: int = 1,
) -> tuple[Tensor, State]:
    """Return the last layer's output, [T, B, H] or [B, H], and the last states [L, B, H].

    All tensors must be plain (`_eager.is_plain`).
    """
    code = CODES[mode]
    with below_views():
        if num_layers == 1:
            return _layer(input, hx, weights, ragged, code)
        count, last = len(weights) // num_layers, []
        for k in range(num_layers):
            first = None if hx is None else hx.of_layer(k, 1)
            of_layer = weights[k * count : (k + 1) * count]
            input, state = _layer(input, first, of_layer, ragged, code)
            last.append(state)
        return input, concatenate(last)


def _layer(
    input: Tensor, hx: State | None, weights: Sequence[Tensor], ragged: Ragged, code: int
) -> tuple[Tensor, State]:
    cell = CELLS[code]
    merged = merge_directions(weights, 1, cell)
    if cell.gates == 1:  # the outputs overwrite the pre-activations
        return _steps(input, hx, merged, ragged, code)
    output = input.new_empty(*input.shape[:-1], merged[0].shape[0] // cell.gates)
    last = hx
    for part, out, ragged_part in _parts(input, output, ragged, cell.gates):
        _, last = _steps(part, last, merged, ragged_part, code, out)
    assert last is not None  # there is at least one step
    return output, last


def _steps(
    input: Tensor,
    hx: State | None,  # [1, B, H]
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],  # merged
    ragged: Ragged,
    code: int,
    output: Tensor | None = None,  # None: that of `linear`
) -> tuple[Tensor, State]:
    """Run some steps of a layer; return the output and the last state [1, B, H]."""
    weight_ih, weight_hh, bias, unit_param = weights
    heads, rows, size = weight_hh.shape
    pre = (linear_below_autograd if input.is_cpu else F.linear)(input, weight_ih, bias)
    steps, batch = 1 if input.dim() == 2 else input.size(0), input.size(-2)
    if output is None:
        output = pre
        pre = out = pre.view(steps, batch, heads, size)
    else:
        pre, out = pre.view(steps, batch, heads, rows), output.view(steps, batch, heads, size)
    c = c_n = None
    if hx is None:
        h = input.new_zeros(batch, heads, size)
        c = h if CELLS[code].has_c else None
    else:
        h, c = hx
        h, c = h.reshape(batch, heads, size), c if c is None else c.reshape(batch, heads, size)
    if c is not None:
        c_n = c.new_empty(batch, heads, size)
    rest = unit_param, *ragged, None, None, code, heads
    h_n = recurrence_out(pre, weight_hh, h, c, *rest, out=out, c_n=c_n)
    h_n = h_n.view(1, batch, heads * size)
    return output, State(h_n, c_n if c_n is None else c_n.view(h_n.shape))


def _parts(
    input: Tensor, output: Tensor, ragged: Ragged, gates: int
) -> Iterator[tuple[Tensor, Tensor, Ragged]]:
    """Yield parts of the steps whose pre-activations fit into `PART_BYTES`, or all steps."""
    size = output.numel() * gates * output.element_size()
    if size <= 2 * PART_BYTES or not input.is_cpu or input.dim() == 2:
        yield input, output, ragged
        return
    lengths, _, resets = ragged
    count = max(1, input.shape[0] * PART_BYTES // size)
    for t in range(0, input.shape[0], count):
        part = slice(t, t + count)
        left = lengths if lengths is None else (lengths - t).clamp(min=0)
        starts = resets if resets is None else resets[part]
        yield input[part], output[part], Ragged(left, None, starts)
