"""A stack of layers: which implementation runs it, and how its layers are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._torch_private import is_transforming
from .backends import dispatch, torch_rnn
from .backends.base import MODES, Call
from .eager import is_plain, is_recording
from .layer import layer, traceable_layer
from .packed import packed_layout
from .ragged import DENSE, Ragged
from .reference import ACTIVATION_CODES
from .steps import is_active, zero_padding


class Options(NamedTuple):
    """What a stack is besides its tensors, as nn.RNN's arguments."""

    activation: str
    bias: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1


_BEYOND_TORCH = "nn.RNN has no lengths, resets, heads, or packed rows without their batch_sizes"


def runs_in_torch(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    h0: Tensor | None,
    weights: Sequence[Tensor],
    options: Options,
    *,
    expressible: bool,
    batch_sizes: Tensor | None = None,  # [T], on the CPU
    prefer_kernels: bool = False,
) -> bool:
    """Whether torch's own implementation serves a stack, by its name or because it is best.

    Args:
        expressible: whether nn.RNN has all that the call asks for.
        prefer_kernels: whether `auto` takes it only if there are no kernels.

    Raises:
        RuntimeError: it was asked for by name, and nn.RNN cannot express the call.
    """
    name = dispatch.requested()
    if name == "torch" and not expressible:
        dispatch.refuse("torch", _BEYOND_TORCH)
    if name != "auto" or not expressible:
        return name == "torch"
    if torch.jit.is_tracing():  # others know the nodes of torch's loop, and need no fastrnn
        return True
    # A graph that asked for the number of steps would serve only as many as it was traced with,
    # and torch's loop has no rules for transforms.
    if torch.compiler.is_compiling() or is_transforming():
        return False
    steps, batch = input.shape[:2] if batch_sizes is None else (batch_sizes.shape[0], 0)
    if steps > torch_rnn.FEW_STEPS and input.is_cpu and is_plain(input):
        return False  # as `dispatch` would say, in no time
    hidden, directions = weights[1].shape[0], options.directions
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
    """A stack by torch's own implementation: output and h_n."""
    once = torch_rnn.is_differentiable_only_once(input) and is_recording(input, h0, *weights)
    if not once or torch.jit.is_tracing():
        return torch_rnn.stack(input, h0, weights, *options, batch_sizes)
    # cuDNN has no backward in eval mode and no double backward, and draws dropout by a generator
    # of its own. So it runs in training mode without dropout, and a second derivative is that of
    # our operators.
    if options.num_layers > 1 and options.training and options.dropout > 0:
        return _each_layer_in_torch(input, h0, weights, options, batch_sizes)
    without_dropout = options._replace(dropout=0.0, training=True)

    def run(input: Tensor, h0: Tensor | None, *weights: Tensor) -> tuple[Tensor, Tensor]:
        h0 = h0 if h0 is None else h0.contiguous()
        return torch_rnn.stack(input, h0, weights, *without_dropout, batch_sizes)

    def differentiable(input: Tensor, h0: Tensor | None, *weights: Tensor) -> tuple[Tensor, Tensor]:
        ragged = DENSE
        if batch_sizes is not None:
            ragged = Ragged(*packed_layout(batch_sizes, input, None))
        return in_layers(input, h0, weights, ragged, None, without_dropout, traceable=True)

    return torch_rnn.differentiable_once(run, differentiable, input, h0, *weights)


def _each_layer_in_torch(
    input: Tensor,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    options: Options,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    one = options._replace(num_layers=1)
    last_states = []
    for number, (of_layer, h) in enumerate(_layers(h0, weights, options)):
        if number > 0:
            input = torch.dropout(input, options.dropout, True)
        input, h_n = in_torch(input, h, of_layer, one, batch_sizes)
        last_states.append(h_n)
    return input, torch.cat(last_states)


def in_layers(
    input: Tensor,  # [T, B, I], or [N, I] if packed
    h0: Tensor | None,  # [D·L, B, H]
    weights: Sequence[Tensor],
    ragged: Ragged,
    reset_to: Tensor | None,  # [D·L, H]
    options: Options,
    traceable: bool = False,
) -> tuple[Tensor, Tensor]:
    """A stack by our operators, layer by layer: output and h_n.

    Args:
        traceable: whether it must be made of operations that can be differentiated twice.
    """
    recording = torch.jit.is_tracing() or is_recording(input, h0, *weights)
    recording = recording or (not torch.compiler.is_compiling() and is_transforming())
    if ragged.lengths is not None and not ragged.is_packed and recording:
        input = zero_padding(input, is_active(input.shape[0], ragged.lengths))
    at_once = (
        not traceable
        and (ragged.resets is None or reset_to is None)
        and is_plain(input, h0, *weights)
        and input.shape[-1] == weights[0].shape[1]
    )
    code, directions = ACTIVATION_CODES[options.activation], options.directions
    last_states = []
    for number, (of_layer, h) in enumerate(_layers(h0, weights, options)):
        if number > 0 and options.training and options.dropout > 0:
            input = torch.dropout(input, options.dropout, True)
        if at_once:
            input, h_n = layer(input, h, of_layer, ragged, code, directions)
        else:
            first = number * directions
            start = None if reset_to is None else reset_to[first : first + directions]
            input, h_n = traceable_layer(input, h, of_layer, ragged, start, code, directions)
        last_states.append(h_n)
    return input, last_states[0] if options.num_layers == 1 else torch.cat(last_states)


def _layers(
    h0: Tensor | None, weights: Sequence[Tensor], options: Options
) -> list[tuple[Sequence[Tensor], Tensor | None]]:
    """Each layer's weights and its initial states, [D, B, H]."""
    if options.num_layers == 1:
        return [(weights, h0)]
    count, directions = len(weights) // options.num_layers, options.directions
    return [
        (
            weights[number * count : (number + 1) * count],
            h0 if h0 is None else h0[number * directions : (number + 1) * directions],
        )
        for number in range(options.num_layers)
    ]
