"""Export of a stack of layers to ONNX as nodes of ONNX's own operators RNN, LSTM and GRU.

An ONNX file that every runtime can read must not contain fastrnn's operators. During an export to
ONNX, a stack emits one such node, of opset 14 or later, per layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .arguments import State, concatenate
from .cells import CELLS, CODES
from .cells.base import Cell
from .options import Options
from .ragged import Ragged

_ACTIVATIONS = {"RNN_TANH": "Tanh", "RNN_RELU": "Relu"}
#: The positions of torch's gates in ONNX's order: i, o, f, c of i, f, g, o, and z, r, h of r, z, n.
_ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
#: The dtypes that onnxruntime supports; the operators themselves also have float64.
_DTYPES = (torch.float32, torch.float16)

_exporting = False


@contextmanager
def exporting() -> Iterator[None]:
    """Context manager in which torch.export records ONNX nodes."""
    global _exporting
    previous, _exporting = _exporting, True
    try:
        yield
    finally:
        _exporting = previous


def wanted() -> bool:
    """Whether the running export is to ONNX: within `exporting`, or by torch.onnx.export."""
    return torch.compiler.is_exporting() and (_exporting or torch.onnx.is_in_onnx_export())


def _check(input: Tensor, ragged: Ragged, operator: str) -> None:
    if ragged.is_packed():
        raise ValueError(
            "ONNX does not support packed sequences: pass padded input and lengths= to the layer"
        )
    if ragged.resets is not None:
        raise ValueError(
            f"ONNX's {operator} does not support resets: export the module without them, and pass "
            "each sequence as a separate row"
        )
    if input.dtype not in _DTYPES:
        raise ValueError(
            f"onnxruntime does not support {operator} in {input.dtype}: convert the module and its "
            "inputs to float32 with .float(), and disable autocast"
        )


def run(
    input: Tensor,  # [T, B, I]
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    options: Options,
) -> tuple[Tensor, State]:
    """Emit `stack.run` as nodes of ONNX, with the same arguments and results.

    Raises:
        ValueError: the operator or onnxruntime does not support the call. The message says what to
            do instead.
    """
    if CELLS[CODES[options.mode]].is_leaky:
        raise ValueError(
            "ONNX's RNN has no leak: export the module without ONNX, with torch.export"
        )
    _check(input, ragged, _operator(options.mode))
    lengths, directions = ragged.lengths, options.directions()
    if lengths is not None:
        # A length above T means T, but onnxruntime rejects it.
        lengths = lengths.clamp(0, input.shape[0]).to(torch.int32)
    count = len(weights) // options.num_layers
    last_states = []
    for layer in range(options.num_layers):
        if layer > 0 and options.training and options.dropout > 0:
            input = torch.dropout(input, options.dropout, True)
        first = None if hx is None else hx.of_layer(layer, directions)
        of_layer = weights[layer * count : (layer + 1) * count]
        input, last = _layer(input, first, of_layer, lengths, options)
        last_states.append(last)
    return input, concatenate(last_states)


def _operator(mode: str) -> str:
    """Return the name of ONNX's operator for a mode."""
    return "RNN" if mode in _ACTIVATIONS else mode


def _layer(
    input: Tensor,  # [T, B, I]
    hx: State | None,  # [D, B, H]
    weights: Sequence[Tensor],
    lengths: Tensor | None,  # [B]
    options: Options,
) -> tuple[Tensor, State]:
    """Emit one node, and return output [T, B, D·H] and the final state [D, B, H]."""
    cell, directions = CELLS[CODES[options.mode]], options.directions()
    per_direction = len(weights) // directions

    def of_kind(k: int) -> list[Tensor]:
        parts = weights[k::per_direction]
        return [_reorder(_block_diagonal(x, cell.gates) if k == 1 else x, cell) for x in parts]

    recurrent = torch.stack(of_kind(1))  # [D, K·H, H]
    hidden = recurrent.shape[-1]
    bias = None
    if options.bias:
        bias = torch.cat((torch.stack(of_kind(2)), torch.stack(of_kind(3))), 1)  # [D, 2·K·H]
    inputs = [input, torch.stack(of_kind(0)), recurrent, bias, lengths, *(hx or (None, None))]
    attributes: dict[str, Any] = {
        "direction": "bidirectional" if options.bidirectional else "forward",
        "hidden_size": hidden,
    }
    if options.mode in _ACTIVATIONS:
        attributes["activations"] = [_ACTIVATIONS[options.mode]] * directions
    if options.mode == "GRU":
        attributes["linear_before_reset"] = 1  # r multiplies W_hn h + b_hn, as in torch
    steps, batch = input.shape[:2]
    states = 2 if cell.has_c else 1
    out, *last = torch.onnx.ops.symbolic_multi_out(
        _operator(options.mode),
        inputs[: 5 + states],
        attributes,
        dtypes=(input.dtype,) * (1 + states),
        shapes=((steps, directions, batch, hidden), *[(directions, batch, hidden)] * states),
    )
    if lengths is not None and hx is not None:
        # onnxruntime drops the initial state of a row without steps.
        has_steps = (lengths > 0)[None, :, None].expand(last[0].shape)
        last = [x.where(has_steps, first) for x, first in zip(last, hx, strict=False)]
    # [T, D, B, H] -> [T, B, D·H]. Copy first: to decide whether flatten needs a copy, torch would
    # inspect the sizes and specialize the file on those of the example.
    output = out.transpose(1, 2).clone(memory_format=torch.contiguous_format).flatten(-2)
    return output, State(*last)


def _reorder(x: Tensor, cell: type[Cell]) -> Tensor:
    """Reorder the gates, the rows [K·H, ...] of a weight or bias, from torch's order to ONNX's."""
    order = _ORDERS.get(cell.mode)
    if order is None:
        return x
    gates = x.chunk(cell.gates)
    return torch.cat([gates[k] for k in order])


def _block_diagonal(weight_hh: Tensor, gates: int = 1) -> Tensor:
    """[n, K·H/n, H/n] -> [K·H, H], block-diagonal for each gate; [K·H, H] stays as it is."""
    if weight_hh.dim() == 2:
        return weight_hh
    heads, _, size = weight_hh.shape
    eye = torch.eye(heads, dtype=weight_hh.dtype)
    # [1, n, 1, n, 1] · [K, n, H/n, 1, H/n]
    blocks = weight_hh.reshape(heads, gates, size, size).transpose(0, 1).unsqueeze(3)
    return (eye[:, None, :, None] * blocks).reshape(gates * heads * size, heads * size)
