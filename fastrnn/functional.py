"""The recurrence as functions: what the layers are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks
from .ops import dispatch, flops, in_torch, onnx, reference  # noqa: F401 (flops registers itself)
from .ops import recurrence as _operators
from .ops.layer import layer as run_layer
from .ops.layer import merge_directions
from .ops.linear import is_plain, is_recording, linear
from .ops.own_gradient import own_gradient
from .ops.recurrence import transforming
from .ops.steps import is_active, zero_padding
from .ops.weight_gradient import begins

__all__ = ["recurrence", "rnn"]

_OFFSETS_ALONE = "offsets describe packed rows and need lengths beside them"
_ONNX_BY_TRACING = (
    "torch.onnx.export(dynamo=False) cannot express lengths, resets, heads or another backend than "
    '"auto": use fastrnn.export.to_onnx, or dynamo=True'
)
_UNKNOWN_ACTIVATION = "activation must be 'tanh' or 'relu', got {!r}"


def recurrence(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    *,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    resets: Tensor | None = None,
    activation: str = "tanh",
    reverse_from: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""G independent recurrences over one batch: :math:`h_t = act(pre_t + W_{hh} h_{t-1})`.

    The directions of a bidirectional layer, the heads of a block-diagonal W_hh and an ensemble
    of models are all groups.

    Args:
        pre: [T, B, G, H], or [N, G, H] with ``offsets``: the input's share of the pre-activation,
            W_ih x_t + b. float64, float32, bfloat16 or float16 (sums are taken in float32 or
            wider), on any device; complex dtypes are served by the reference.
        weight_hh: [G, H, H], of pre's dtype and device, row-major as nn.RNN's weight_hh.
        h0: [B, G, H], the initial state.
        lengths: [B] integers on pre's device: row b is active while t < lengths[b]. None: all
            rows at all steps.
        offsets: [T] integers on pre's device, for packed data: row b of step t is row
            offsets[t] + b. It must be the exclusive cumulative sum of the batch sizes, and
            ``lengths`` be in descending order, as in a PackedSequence.
        resets: bool, [T, B], or [N] with ``offsets``, on pre's device: where true, row b begins a
            new sequence at step t. No state passes between steps t - 1 and t, in either direction:
            the new sequence starts from 0 and not, at step 0, from h0.
        activation: ``"tanh"`` or ``"relu"``.
        reverse_from: groups from this one on run from the last step to the first. None: no group.

    Returns:
        out, shaped as pre: h_t, 0 where a row is inactive; and h_n [B, G, H], the state each row
        is left with.

    Raises:
        ValueError: shapes, dtypes, devices or values do not fit together.
    """
    if reverse_from is None:
        reverse_from = weight_hh.shape[0]
    if _autocasting(pre):
        pre, weight_hh, h0 = _autocast(pre, weight_hh, h0)
    ragged = lengths, offsets, resets
    _check(pre, weight_hh, h0, *ragged, activation, reverse_from)
    code = reference.ACTIVATION_CODES[activation]
    return _apply(pre, weight_hh, h0, *ragged, code, reverse_from)


def rnn(
    input: Tensor,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    activation: str = "tanh",
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: Tensor | None = None,
    _always_fused: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""A stack of recurrent layers, as `torch.nn.RNN` computes it from the same weights.

    .. math:: h_t = act(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    W_hh may be block-diagonal: a weight_hh [n, H/n, H/n] has its blocks, one for each head.
    With D = 2 if ``bidirectional`` else 1 and L = ``num_layers``:

    Args:
        input: [T, B, I], or [N, I] with ``offsets``.
        h0: [D·L, B, H], or None for zeros.
        weights: as nn.RNN orders its parameters: per layer, then direction, weight_ih
            [H, I or D·H], weight_hh [H, H] or, all alike, [n, H/n, H/n] and, with ``bias``,
            bias_ih [H] and bias_hh [H].
        dropout: probability of dropping an output of any layer but the last, in training.
        activation, lengths, offsets, resets: see `recurrence`; resets hold for every layer.
        reset_to: [D·L, H], the states that a sequence begun by a reset starts from, or None for
            zeros: h_t = act(W_ih x_t + b_ih + W_hh ((1 - r_t) h_{t-1} + r_t reset_to) + b_hh),
            with r for resets; in the reverse direction r_{t+1} and h_{t+1}.

    Returns:
        output, [T, B, D·H] or [N, D·H], of the last layer; and h_n [D·L, B, H].

    Raises:
        ValueError: the weights are not as many as they should be, the shapes of weight_hh differ,
            offsets came alone, resets have a wrong shape, dtype or device, or there is no such
            activation.

    Under autocast everything is computed and returned in the autocast dtype.
    """
    directions = 2 if bidirectional else 1
    per_direction = 4 if bias else 2
    _check_rnn(input, weights, num_layers * directions, per_direction, lengths, offsets, resets)
    if activation not in reference.ACTIVATION_CODES:
        raise ValueError(_UNKNOWN_ACTIVATION.format(activation))
    if _autocasting(input):
        input, h0, reset_to, *weights = _autocast(input, h0, reset_to, *weights)
    if onnx.wanted():
        return onnx.rnn(
            input,
            h0,
            weights,
            num_layers=num_layers,
            bias=bias,
            dropout=dropout,
            training=training,
            bidirectional=bidirectional,
            activation=activation,
            lengths=lengths,
            offsets=offsets,
            resets=resets,
        )
    compiling, tracing = torch.compiler.is_compiling(), torch.jit.is_tracing()
    options = bias, num_layers, dropout, training, bidirectional
    plain = lengths is None and resets is None and weights[1].dim() == 2  # nn.RNN has no more
    if tracing and plain and dispatch.requested() == "auto":
        return in_torch.stack(input, h0, weights, activation, *options)
    if tracing and torch.onnx.is_in_onnx_export():
        raise ValueError(_ONNX_BY_TRACING)
    recording = tracing or is_recording(input, h0, *weights) or (not compiling and transforming())
    if lengths is not None and offsets is None and recording:
        input = zero_padding(input, is_active(input.shape[0], lengths))
    one_step = at_once = False
    # A graph that asked for the number of steps would serve only as many as it was traced with.
    if not (compiling or tracing):
        if plain and (recording or not _always_fused) and in_torch.is_short(input, h0, weights):
            if input.is_cpu:
                return in_torch.stack(input, h0, weights, activation, *options)
            # Elsewhere that may be cuDNN's loop, which wants its weights in one piece of memory and
            # has no double backward.
            one_step = input.shape[0] == 1 and not bidirectional
        if not one_step and (resets is None or reset_to is None):
            at_once = is_plain(input, h0, *weights) and input.shape[-1] == weights[0].shape[1]
    code = reference.ACTIVATION_CODES[activation]
    last_states = []
    for layer in range(num_layers):
        if layer > 0 and training and dropout > 0:
            input = torch.dropout(input, dropout, True)
        first, states = layer * directions, slice(layer * directions, (layer + 1) * directions)
        of_layer = weights[first * per_direction : states.stop * per_direction]
        h = h0 if h0 is None or num_layers == 1 else h0[states]
        if one_step:
            input, h = in_torch.one_step(input, h, of_layer, activation)
        elif at_once:
            ragged = lengths, offsets, resets
            input, h = run_layer(input, h, of_layer, *ragged, code, directions)
        else:
            begun = None if reset_to is None else reset_to[states]
            ragged = lengths, offsets, resets
            input, h = _piece_by_piece(input, h, of_layer, *ragged, begun, code, directions)
        last_states.append(h)
    if num_layers == 1 and not one_step:
        return input, last_states[0]
    return input, torch.cat(last_states)


def _piece_by_piece(
    input: Tensor,  # [T, B, I], or [N, I] with offsets
    h0: Tensor | None,  # [D, B, H]
    weights: Sequence[Tensor],
    lengths: Tensor | None,  # [B]
    offsets: Tensor | None,  # [T]
    resets: Tensor | None,  # [T, B], or [N] with offsets
    reset_to: Tensor | None,  # [D, H]
    activation: int,
    directions: int,
) -> tuple[Tensor, Tensor]:
    """One layer's output and h_n, as `ops.layer`, in operations that can be traced and mapped."""
    weights = [own_gradient(weight) for weight in weights]
    weight_ih, weight_hh, bias = merge_directions(weights, directions)
    # A group is a head of a direction, G = D·n: [.., D·H] -> [.., G, H/n].
    groups, size, _ = weight_hh.shape
    heads = groups // directions
    pre = linear(input, weight_ih, bias).unflatten(-1, (groups, size))
    batch = input.shape[1] if lengths is None or offsets is None else lengths.shape[0]
    h = input.new_zeros(directions, batch, heads * size) if h0 is None else h0
    h = h.transpose(0, 1).reshape(batch, groups, size)  # [D, B, H] -> [B, G, H/n]
    if resets is not None and reset_to is not None:
        begun = reset_to.reshape(groups, size)
        pre = _begin_from(begun, pre, weight_hh, lengths, offsets, resets, heads)
    out, h_n = _apply(pre, weight_hh, h, lengths, offsets, resets, activation, heads)
    h_n = h_n.reshape(batch, directions, heads * size).transpose(0, 1)
    return out.flatten(-2), h_n.contiguous()


def _begin_from(
    state: Tensor,  # [G, H]
    pre: Tensor,  # [T, B, G, H], or [N, G, H] with offsets
    weight_hh: Tensor,  # [G, H, H]
    lengths: Tensor | None,  # [B]
    offsets: Tensor | None,  # [T]
    resets: Tensor,  # [T, B], or [N] with offsets
    reverse_from: int,
) -> Tensor:
    """pre with W_hh state added where a sequence begins, which the operator starts from 0."""
    groups = weight_hh.shape[0]
    begin = resets.unsqueeze(-1)  # [.., 1]: the groups of both directions begin alike, or [.., G]
    if reverse_from < groups:
        later = begins(resets, lengths, offsets, reverse=True).unsqueeze(-1)
        shape = resets.shape
        begin = torch.cat(
            (begin.expand(*shape, reverse_from), later.expand(*shape, groups - reverse_from)), -1
        )
    share = (weight_hh @ state.unsqueeze(-1)).squeeze(-1)  # [G, H]
    return torch.addcmul(pre, begin.unsqueeze(-1).to(pre.dtype), share)


def _apply(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    activation: int,
    reverse_from: int,
) -> tuple[Tensor, Tensor]:
    arguments = (pre, weight_hh, h0, lengths, offsets, resets, activation, reverse_from)
    if pre.is_complex():
        # The operator's backward is for real numbers; the reference's forward is differentiable
        # as it stands.
        if dispatch.requested() != "auto":
            dispatch.select(h0, 0)  # raises, unless the reference is what was asked for
        return reference.forward(*arguments)
    operator = _operators.NAMED.get(dispatch.requested(), _operators.recurrence)
    out, h_n = operator(*arguments)
    if torch.compiler.is_compiling() and is_recording(pre, weight_hh, h0):
        out = out.clone()  # users may write to it, and the backward reads what the operator gave
    return out, h_n


def _autocasting(tensor: Tensor) -> bool:
    if not torch._C._is_any_autocast_enabled():
        return False
    # Of the meta device torch raises; and torch.amp.is_autocast_available, which would tell, is
    # beyond torch.compile in torch 2.10.
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def _autocast(*tensors: Tensor | None) -> list[Tensor]:
    """The tensors in their device's autocast dtype; float64 is left alone, as torch leaves it."""
    device = next(t for t in tensors if t is not None).device.type
    dtype = torch.get_autocast_dtype(device)
    eligible = (torch.float32, torch.float16, torch.bfloat16)
    return [t.to(dtype) if t is not None and t.dtype in eligible else t for t in tensors]  # type: ignore[misc]


def _check_rnn(
    input: Tensor,
    weights: Sequence[Tensor],
    runs: int,  # layers times directions
    per_direction: int,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
) -> None:
    if len(weights) != runs * per_direction:
        raise ValueError(
            f"{runs} layers times directions have {per_direction} weights each: "
            f"{runs * per_direction} were expected, got {len(weights)}"
        )
    shape = weights[1].shape
    for other in weights[1 + per_direction :: per_direction]:
        if other.shape != shape:
            raise ValueError(
                "weight_hh must have the same shape, [H, H] or [n, H/n, H/n], in all layers and "
                f"directions, got {list(shape)} and {list(other.shape)}"
            )
    if offsets is not None and lengths is None:
        raise ValueError(_OFFSETS_ALONE)
    if resets is not None:
        _checks.resets(resets, input.shape[: 2 if offsets is None else 1], input.device)


def _check(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    activation: str,
    reverse_from: int,
) -> None:
    packed = offsets is not None
    if pre.dim() != (3 if packed else 4):
        wanted = "[N, G, H] with offsets" if packed else "[T, B, G, H] without offsets"
        raise ValueError(f"pre must be {wanted}, got shape {list(pre.shape)}")
    if not (pre.is_floating_point() or pre.is_complex()):
        raise ValueError(f"pre must be floating point, got {pre.dtype}: use pre.float()")
    groups, hidden = pre.shape[-2:]
    if groups == 0 or hidden == 0 or (not packed and pre.shape[0] == 0):
        raise ValueError(f"T, G and H must be at least 1, got pre of shape {list(pre.shape)}")
    if list(weight_hh.shape) != [groups, hidden, hidden]:
        raise ValueError(
            f"weight_hh must be [G, H, H] = {[groups, hidden, hidden]} to fit pre, "
            f"got {list(weight_hh.shape)}"
        )
    batch = h0.shape[0] if packed and h0.dim() > 0 else pre.shape[1]
    if list(h0.shape) != [batch, groups, hidden]:
        expected = f"[{'B' if packed else batch}, {groups}, {hidden}]"
        raise ValueError(f"h0 must be [B, G, H] = {expected} to fit pre, got {list(h0.shape)}")
    for name, tensor in (("weight_hh", weight_hh), ("h0", h0)):
        if tensor.dtype != pre.dtype:
            raise ValueError(f"{name} must have pre's dtype {pre.dtype}, got {tensor.dtype}")
    for name, index in (("lengths", lengths), ("offsets", offsets)):
        if index is not None and (
            index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool
        ):
            raise ValueError(
                f"{name} must be a 1-D integer tensor, got shape {list(index.shape)} "
                f"of {index.dtype}"
            )
    tensors = {"weight_hh": weight_hh, "h0": h0, "lengths": lengths, "offsets": offsets}
    for name, other in tensors.items():
        if other is not None and other.device != pre.device:
            raise ValueError(f"{name} must be on pre's device {pre.device}, got {other.device}")
    if packed and lengths is None:
        raise ValueError(_OFFSETS_ALONE)
    if lengths is not None and lengths.shape[0] != batch:
        raise ValueError(f"lengths must be [B] = [{batch}], got {list(lengths.shape)}")
    if resets is not None:
        _checks.resets(resets, pre.shape[:1] if packed else pre.shape[:2], pre.device)
    if activation not in reference.ACTIVATION_CODES:
        raise ValueError(_UNKNOWN_ACTIVATION.format(activation))
    if not 0 <= reverse_from <= groups:
        raise ValueError(f"reverse_from must be between 0 and G = {groups}, got {reverse_from}")
