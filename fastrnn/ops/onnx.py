"""Export of a stack of layers to ONNX as nodes of ONNX's own operator ``RNN``.

An ONNX file that every runtime can read must not contain fastrnn's operators. During an export to
ONNX, `fastrnn.functional.rnn` emits one `RNN` node, of opset 14 or later, per layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .arguments import State
from .options import Options
from .ragged import Ragged

_ACTIVATIONS = {"RNN_TANH": "Tanh", "RNN_RELU": "Relu"}
#: The dtypes that onnxruntime supports; the operator itself also has float64.
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


def _check(input: Tensor, ragged: Ragged) -> None:
    if ragged.is_packed():
        raise ValueError(
            "ONNX does not support packed sequences: pass padded input and lengths= to the layer"
        )
    if ragged.resets is not None:
        raise ValueError(
            "ONNX's RNN does not support resets: export the module without them, and pass each "
            "sequence as a separate row"
        )
    if input.dtype not in _DTYPES:
        raise ValueError(
            f"onnxruntime does not support RNN in {input.dtype}: convert the module and its inputs "
            "to float32 with .float(), and disable autocast"
        )


def rnn(
    input: Tensor,  # [T, B, I]
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    options: Options,
) -> tuple[Tensor, State]:
    """Emit `fastrnn.functional.rnn` as `RNN` nodes, with the same arguments and results.

    Raises:
        ValueError: the operator or onnxruntime does not support the call. The message says what to
            do instead.
    """
    _check(input, ragged)
    lengths = ragged.lengths
    steps, batch = input.shape[:2]
    directions, num_layers = options.directions(), options.num_layers
    per_direction = 4 if options.bias else 2
    if lengths is not None:
        # A length above T means T, but onnxruntime rejects it.
        lengths = lengths.clamp(0, steps).to(torch.int32)
    states = []
    for layer in range(num_layers):
        if layer > 0 and options.training and options.dropout > 0:
            input = torch.dropout(input, options.dropout, True)
        first = layer * directions * per_direction
        parts = [
            weights[first + k : first + directions * per_direction : per_direction]
            for k in range(per_direction)
        ]
        recurrent = [_block_diagonal(weight) for weight in parts[1]]
        hidden = recurrent[0].shape[0]
        h = None if hx is None else hx.h[layer * directions : (layer + 1) * directions]
        out, h_n = torch.onnx.ops.symbolic_multi_out(
            "RNN",
            (
                input,
                torch.stack(list(parts[0])),  # [D, H, I]
                torch.stack(recurrent),  # [D, H, H]
                torch.cat((torch.stack(list(parts[2])), torch.stack(list(parts[3]))), 1)
                if options.bias
                else None,  # [D, 2·H]
                lengths,
                h,
            ),
            {
                "activations": [_ACTIVATIONS[options.mode]] * directions,
                "direction": "bidirectional" if options.bidirectional else "forward",
                "hidden_size": hidden,
            },
            dtypes=(input.dtype, input.dtype),
            shapes=((steps, directions, batch, hidden), (directions, batch, hidden)),
        )
        if lengths is not None and h is not None:
            # onnxruntime drops the initial state of a row without steps.
            h_n = h_n.where((lengths > 0)[None, :, None].expand(h_n.shape), h)
        # [T, D, B, H] -> [T, B, D·H]. Copy first: to decide whether flatten needs a copy, torch
        # would inspect the sizes and specialize the file on those of the example.
        input = out.transpose(1, 2).clone(memory_format=torch.contiguous_format).flatten(-2)
        states.append(h_n)
    return input, State(states[0] if num_layers == 1 else torch.cat(states))


def _block_diagonal(weight_hh: Tensor) -> Tensor:
    """[n, H/n, H/n] -> block-diagonal [H, H]; [H, H] stays as it is."""
    if weight_hh.dim() == 2:
        return weight_hh
    heads, size, _ = weight_hh.shape
    eye = torch.eye(heads, dtype=weight_hh.dtype)
    # [n, 1, n, 1] · [n, H/n, 1, H/n]
    return (eye[:, None, :, None] * weight_hh[:, :, None]).reshape(heads * size, heads * size)
