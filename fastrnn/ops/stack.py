"""A stack of layers: select an implementation, and run it on the whole stack or per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import autocast, onnx
from ._eager import are_plain, is_eager, is_recording
from .arguments import State, concatenate
from .backends import cpu, dispatch, torch_rnn
from .backends.base import Call
from .cells import CELLS, CODES
from .layer import layer
from .options import Options
from .packed import packed_layout
from .ragged import DENSE, Ragged
from .traceable_layer import layers_of, traceable_stack, without_padding

_UNSUPPORTED_BY_TORCH = (
    "torch's layers do not support lengths, resets, heads, leaks, or packed rows without their "
    "batch_sizes"
)

_ONNX_BY_TRACING = (
    "torch.onnx.export(dynamo=False) does not support lengths, resets, heads or a backend other "
    'than "auto": use fastrnn.export.to_onnx, or dynamo=True'
)


def run(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: State | None,  # [D·L, H]
    options: Options,
    batch_sizes: Tensor | None = None,  # [T], on the CPU, for packed data that torch's loop runs
    prefer_kernels: bool = False,
) -> tuple[Tensor, State]:
    """Compute `fastrnn.functional.rnn`, of any cell, on the selected implementation.

    The arguments are valid.

    Args:
        prefer_kernels: see `runs_in_torch`.
    """
    if autocast.is_autocasting(input):
        input, *weights = autocast.cast(input, *weights)
        hx, reset_to = (x if x is None else State(*autocast.cast(*x)) for x in (hx, reset_to))
    if onnx.wanted():
        return onnx.run(input, hx, weights, ragged, options)
    if batch_sizes is not None:
        return in_torch(input, hx, weights, options, batch_sizes)
    expressible = ragged.lengths is None and ragged.resets is None and weights[1].dim() == 2
    eager = is_eager()
    if runs_in_torch(input, hx, weights, options, eager, expressible, None, prefer_kernels):
        return in_torch(input, hx, weights, options)
    if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
        raise ValueError(_ONNX_BY_TRACING)
    return in_layers(input, hx, weights, ragged, reset_to, options, eager)


def runs_in_torch(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    hx: State | None,
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
    expressible = expressible and not CELLS[CODES[options.mode]].is_leaky
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
        if prefer_kernels:
            return False
        steps = input.shape[0] if batch_sizes is None else batch_sizes.shape[0]
        batch = input.shape[1] if batch_sizes is None else int(batch_sizes[0])
        size = batch, weights[1].shape[-1], input.dtype
        recording = is_recording(*weights, input, *(hx or ()))
        return torch_rnn.is_faster_on_cpu(options.mode, steps, *size, recording)
    if batch_sizes is None:
        steps, batch = input.shape[:2]
    else:
        steps, batch = batch_sizes.shape[0], int(batch_sizes[0])
    shape = steps, batch, options.directions(), weights[1].shape[-1]
    training = is_recording(*weights, input, *(hx or ()))
    call = Call(options.mode, *shape, input.dtype, input.device, training)
    return dispatch.for_layer(call, prefer_kernels) is torch_rnn.BACKEND


def in_torch(
    input: Tensor,  # [T, B, I], or [N, I] with batch_sizes
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    options: Options,
    batch_sizes: Tensor | None = None,  # [T], on the CPU
) -> tuple[Tensor, State]:
    """Run a stack with torch's own implementation: return output and the final state."""
    only_once = torch_rnn.is_differentiable_only_once(input)
    if not only_once or torch.jit.is_tracing() or not is_recording(input, *(hx or ()), *weights):
        return torch_rnn.stack(input, hx, weights, *options, batch_sizes)
    h0, c0 = hx or (None, None)
    # cuDNN has no backward in eval mode and no double backward, and draws dropout from its own
    # generator. So it runs in training mode without dropout, and our operators compute second
    # derivatives.
    if options.num_layers > 1 and options.training and options.dropout > 0:
        return _each_layer_in_torch(input, hx, weights, options, batch_sizes)
    without_dropout = options._replace(dropout=0.0, training=True)

    def run(
        input: Tensor, h0: Tensor | None, c0: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        hx = None if h0 is None else State(h0, c0)
        output, last = torch_rnn.stack(input, hx, weights, *without_dropout, batch_sizes)
        return output, *(x for x in last if x is not None)

    def differentiable(
        input: Tensor, h0: Tensor | None, c0: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        hx = None if h0 is None else State(h0, c0)
        ragged = DENSE
        if batch_sizes is not None:
            ragged = Ragged(*packed_layout(batch_sizes, input, None))
        output, last = in_layers(input, hx, weights, ragged, None, without_dropout, eager=False)
        return output, *(x for x in last if x is not None)

    output, *last = torch_rnn.differentiable_once(run, differentiable, input, h0, c0, *weights)
    return output, State(*last)


def _each_layer_in_torch(
    input: Tensor,
    hx: State | None,
    weights: Sequence[Tensor],
    options: Options,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, State]:
    layer_options = options._replace(num_layers=1)
    last_states = []
    layers = layers_of(hx, weights, options.num_layers, options.directions())
    for index, (layer_weights, first) in enumerate(layers):
        if index > 0:
            input = torch.dropout(input, options.dropout, True)
        input, last = in_torch(input, first, layer_weights, layer_options, batch_sizes)
        last_states.append(last)
    return input, concatenate(last_states)


def in_layers(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    hx: State | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: State | None,  # [D·L, H]
    options: Options,
    eager: bool,
) -> tuple[Tensor, State]:
    """Run a stack with our operators: return output and the final state.

    Args:
        eager: whether the stack may be one autograd node, and run below autograd.
    """
    code, directions = CODES[options.mode], options.directions()
    dropout = options.dropout if options.training and options.num_layers > 1 else 0.0
    if not (
        eager
        and are_plain(input, *(hx or ()), *weights)
        and (ragged.resets is None or reset_to is None)
        and input.shape[-1] == weights[0].shape[1]
    ):
        given = ragged, reset_to, code, options.num_layers, directions, dropout
        return traceable_stack(input, hx, weights, *given)
    if not input.is_cpu:
        input = without_padding(input, hx, weights, ragged)
    if dropout == 0:
        return layer(input, hx, weights, ragged, code, options.num_layers, directions)
    last_states = []
    for index, (own, first) in enumerate(layers_of(hx, weights, options.num_layers, directions)):
        if index > 0:
            input = torch.dropout(input, dropout, True)
        input, last = layer(input, first, own, ragged, code, 1, directions)
        last_states.append(last)
    return input, concatenate(last_states)
