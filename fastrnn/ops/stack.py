"""A stack of layers: select an implementation, and run it on the whole stack or per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import autocast, onnx
from ._eager import are_plain, is_eager, is_recording
from ._torch_private import is_transforming
from .backends import cpu, dispatch, torch_rnn
from .backends.base import MODES, Call
from .layer import layer, traceable_layer
from .options import Options
from .packed import packed_layout
from .ragged import DENSE, Ragged
from .reference import ACTIVATION_CODES
from .time_shift import is_active, zero_padding

_UNSUPPORTED_BY_TORCH = (
    "nn.RNN does not support lengths, resets, heads, or packed rows without their batch_sizes"
)

_ONNX_BY_TRACING = (
    "torch.onnx.export(dynamo=False) does not support lengths, resets, heads or a backend other "
    'than "auto": use fastrnn.export.to_onnx, or dynamo=True'
)


def rnn(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    h0: Tensor | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: Tensor | None,  # [D·L, H]
    options: Options,
    batch_sizes: Tensor | None = None,  # [T], on the CPU, for packed data that torch's loop runs
    prefer_kernels: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute `fastrnn.functional.rnn` with valid arguments, on the selected implementation.

    Args:
        prefer_kernels: see `runs_in_torch`; ignored if a gradient is recorded.
    """
    if autocast.is_autocasting(input):
        input, h0, reset_to, *weights = autocast.cast(input, h0, reset_to, *weights)
    if onnx.wanted():
        return onnx.rnn(input, h0, weights, ragged, options)
    if batch_sizes is not None:
        return in_torch(input, h0, weights, options, batch_sizes)
    expressible = ragged.lengths is None and ragged.resets is None and weights[1].dim() == 2
    if prefer_kernels:
        prefer_kernels = not is_recording(*weights, input, h0)
    eager = is_eager()
    if runs_in_torch(input, h0, weights, options, eager, expressible, None, prefer_kernels):
        return in_torch(input, h0, weights, options)
    if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
        raise ValueError(_ONNX_BY_TRACING)
    return in_layers(input, h0, weights, ragged, reset_to, options, eager)


def runs_in_torch(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    h0: Tensor | None,
    weights: Sequence[Tensor],
    options: Options,
    eager: bool,
    expressible: bool,
    batch_sizes: Tensor | None = None,  # [T], on the CPU
    prefer_kernels: bool = False,
) -> bool:
    """Whether torch's own implementation runs a stack, by name or because it is the fastest.

    Args:
        eager: the value of `is_eager`.
        expressible: whether nn.RNN supports everything that the call needs.
        prefer_kernels: whether `auto` uses torch's implementation only if there are no kernels.

    Raises:
        RuntimeError: the "torch" backend was requested by name, and nn.RNN cannot express the call.
    """
    name = dispatch.requested()
    if name == "torch" and not expressible:
        dispatch.raise_unsupported("torch", _UNSUPPORTED_BY_TORCH)
    if name != "auto" or not expressible:
        return name == "torch"
    if not eager:
        # Other tools know the nodes of torch's loop, and run a trace of it without fastrnn. But a
        # compiled graph that depended on the number of steps would be specialized on it, and
        # torch's loop has no rules for transforms.
        return torch.jit.is_tracing()
    if input.is_cpu:  # the decision of `dispatch`, with less overhead
        if not cpu.BACKEND.serves(input.dtype):
            return True
        steps = input.shape[0] if batch_sizes is None else batch_sizes.shape[0]
        if prefer_kernels or steps > torch_rnn.FEW_STEPS:
            return False
        return torch_rnn.is_short(steps, input.dtype, is_recording(*weights, input, h0))
    if batch_sizes is None:
        steps, batch = input.shape[:2]
    else:
        steps, batch = batch_sizes.shape[0], int(batch_sizes[0])
    hidden, directions = weights[1].shape[0], options.directions()
    mode, training = MODES[ACTIVATION_CODES[options.activation]], is_recording(*weights, input, h0)
    shape = steps, batch, directions, hidden
    call = Call(mode, *shape, input.dtype, input.device, training)
    return dispatch.for_layer(call, prefer_kernels) is torch_rnn.BACKEND


def in_torch(
    input: Tensor,  # [T, B, I], or [N, I] with batch_sizes
    h0: Tensor | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    options: Options,
    batch_sizes: Tensor | None = None,  # [T], on the CPU
) -> tuple[Tensor, Tensor]:
    """Run a stack with torch's own implementation: return output and h_n."""
    only_once = torch_rnn.is_differentiable_only_once(input) and is_recording(input, h0, *weights)
    if not only_once or torch.jit.is_tracing():
        return torch_rnn.stack(input, h0, weights, *options, batch_sizes)
    # cuDNN has no backward in eval mode and no double backward, and draws dropout from its own
    # generator. So it runs in training mode without dropout, and our operators compute second
    # derivatives.
    if options.num_layers > 1 and options.training and options.dropout > 0:
        return _each_layer_in_torch(input, h0, weights, options, batch_sizes)
    without_dropout = options._replace(dropout=0.0, training=True)

    def run(input: Tensor, h0: Tensor | None, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return torch_rnn.stack(input, h0, weights, *without_dropout, batch_sizes)

    def differentiable(input: Tensor, h0: Tensor | None, *weights: Tensor) -> tuple[Tensor, Tensor]:
        ragged = DENSE
        if batch_sizes is not None:
            ragged = Ragged(*packed_layout(batch_sizes, input, None))
        return in_layers(input, h0, weights, ragged, None, without_dropout, eager=False)

    return torch_rnn.differentiable_once(run, differentiable, input, h0, *weights)


def _each_layer_in_torch(
    input: Tensor,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    options: Options,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    layer_options = options._replace(num_layers=1)
    last_states = []
    for index, (layer_weights, h) in enumerate(_layers(h0, weights, options)):
        if index > 0:
            input = torch.dropout(input, options.dropout, True)
        input, h_n = in_torch(input, h, layer_weights, layer_options, batch_sizes)
        last_states.append(h_n)
    return input, torch.cat(last_states)


def in_layers(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    h0: Tensor | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: Tensor | None,  # [D·L, H]
    options: Options,
    eager: bool,
) -> tuple[Tensor, Tensor]:
    """Run a stack with our operators, layer by layer: return output and h_n.

    Args:
        eager: whether a layer may be one autograd node, and run below autograd.
    """
    if (
        ragged.lengths is not None
        and not ragged.is_packed()
        and (
            torch.jit.is_tracing()
            or is_recording(*weights, input, h0)
            or (not torch.compiler.is_compiling() and is_transforming())
        )
    ):
        input = zero_padding(input, is_active(input.shape[0], ragged.lengths))
    fused = (
        eager
        and are_plain(input, h0, *weights)
        and (ragged.resets is None or reset_to is None)
        and input.shape[-1] == weights[0].shape[1]
    )
    code, directions = ACTIVATION_CODES[options.activation], options.directions()
    last_states = []
    for index, (layer_weights, h) in enumerate(_layers(h0, weights, options)):
        if index > 0 and options.training and options.dropout > 0:
            input = torch.dropout(input, options.dropout, True)
        if fused:
            input, h_n = layer(input, h, layer_weights, ragged, code, directions)
        else:
            first = index * directions
            start = None if reset_to is None else reset_to[first : first + directions]
            input, h_n = traceable_layer(input, h, layer_weights, ragged, start, code, directions)
        last_states.append(h_n)
    return input, last_states[0] if options.num_layers == 1 else torch.cat(last_states)


def _layers(
    h0: Tensor | None, weights: Sequence[Tensor], options: Options
) -> list[tuple[Sequence[Tensor], Tensor | None]]:
    """Return each layer's weights and its initial states [D, B, H]."""
    if options.num_layers == 1:
        return [(weights, h0)]
    count, directions = len(weights) // options.num_layers, options.directions()
    return [
        (
            weights[index * count : (index + 1) * count],
            h0 if h0 is None else h0[index * directions : (index + 1) * directions],
        )
        for index in range(options.num_layers)
    ]
