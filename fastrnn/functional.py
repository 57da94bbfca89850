"""Functional forms of the recurrences and of stacks of layers, which the layers call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import _checks
from .ops import autocast, flops, stack  # noqa: F401 (imported for its registration)
from .ops.arguments import Arguments, Outputs, State, arguments
from .ops.backends import dispatch
from .ops.cells import CODES, GRU, LSTM
from .ops.options import Options
from .ops.ragged import Ragged
from .ops.traceable_layer import traceable_recurrence

__all__ = ["gru", "gru_recurrence", "lstm", "lstm_recurrence", "recurrence", "rnn"]


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
    r"""Compute G independent recurrences over one batch.

    .. math:: h_t = \mathrm{act}(pre_t + W_{hh} h_{t-1})

    A group is a direction of a bidirectional layer, a head of a block-diagonal W_hh or a member of
    an ensemble of models.

    Args:
        pre: [T, B, G, H], or [N, G, H] with ``offsets``: the pre-activation without the recurrent
            term, W_ih x_t + b. float64, float32, bfloat16 or float16 (sums accumulate in float32
            or wider), on any device. The reference serves complex dtypes.
        weight_hh: [G, H, H], of pre's dtype and device, row-major like nn.RNN's weight_hh.
        h0: [B, G, H], the initial state.
        lengths: [B] integers on pre's device: row b is active while t < lengths[b]. None: all
            rows are active at all steps.
        offsets: [T] integers on pre's device, for packed data: row b of step t is row
            offsets[t] + b. It must be the exclusive cumulative sum of the batch sizes, with
            ``lengths`` in descending order, as in a PackedSequence.
        resets: bool, [T, B], or [N] with ``offsets``, on pre's device: where true, row b begins a
            new sequence at step t. No state passes between steps t - 1 and t, in either direction:
            the new sequence starts from 0, also at step 0, where it ignores h0.
        activation: ``"tanh"`` or ``"relu"``.
        reverse_from: the first group that runs from the last step to the first; all later groups
            do so too. None: no group does.

    Returns:
        out, of pre's shape: h_t, and 0 where a row is inactive; and h_n [B, G, H], the final state
        of each row.

    Raises:
        ValueError: shapes, dtypes, devices or values do not match.
        RuntimeError: the backend selected by name cannot serve the call.
    """
    code = CODES[_checks.mode_of(activation)]
    ragged = Ragged(lengths, offsets, resets)
    return _recurrence(pre, arguments(weight_hh, h0, ragged, code, reverse_from))[:2]


def lstm_recurrence(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    *,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    resets: Tensor | None = None,
    reset_h: Tensor | None = None,
    reset_c: Tensor | None = None,
    reverse_from: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Compute G independent recurrences of the LSTM over one batch.

    .. math::
        (i, f, g, o) &= pre_t + W_{hh} h_{t-1} \\
        c_t &= \sigma(f) c_{t-1} + \sigma(i) \tanh(g) \\
        h_t &= \sigma(o) \tanh(c_t)

    Args:
        pre: [T, B, G, 4·H], or [N, G, 4·H] with ``offsets``: W_ih x_t + b, the gates in the order
            i, f, g, o of nn.LSTM. For its dtypes and devices, see `recurrence`.
        weight_hh: [G, 4·H, H].
        h0, c0: [B, G, H], the initial states.
        lengths, offsets, resets, reverse_from: see `recurrence`.
        reset_h, reset_c: [B, G, H], the states from which a sequence begun by a reset starts, or
            None for zeros.

    Returns:
        out, [T, B, G, H] or [N, G, H]: h_t, and 0 where a row is inactive; h_n and c_n [B, G, H],
        the final states of each row.

    Raises:
        ValueError: shapes, dtypes, devices or values do not match.
        RuntimeError: the backend selected by name cannot serve the call.
    """
    given = {"c0": c0, "reset_h": reset_h, "reset_c": reset_c}
    ragged = Ragged(lengths, offsets, resets)
    results = _recurrence(pre, arguments(weight_hh, h0, ragged, LSTM, reverse_from, **given))
    out, h_n, c_n, *_ = results
    assert c_n is not None  # the LSTM has one
    return out, h_n, c_n


def gru_recurrence(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    bias_hn: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    resets: Tensor | None = None,
    reset_h: Tensor | None = None,
    reverse_from: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Compute G independent recurrences of the GRU over one batch.

    .. math::
        r &= \sigma(pre^r_t + W_{hr} h_{t-1}) \qquad z = \sigma(pre^z_t + W_{hz} h_{t-1}) \\
        n &= \tanh(pre^n_t + r \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    Args:
        pre: [T, B, G, 3·H], or [N, G, 3·H] with ``offsets``: W_ih x_t + b, the gates in the order
            r, z, n of nn.GRU, with b = b_ih + (b_hr, b_hz, 0). For its dtypes and devices, see
            `recurrence`.
        weight_hh: [G, 3·H, H].
        h0: [B, G, H], the initial state.
        bias_hn: [G, H], the part of nn.GRU's b_hh that is multiplied by r, or None for zeros.
        lengths, offsets, resets, reverse_from: see `recurrence`.
        reset_h: [B, G, H], the state from which a sequence begun by a reset starts, or None for
            zeros.

    Returns:
        out, [T, B, G, H] or [N, G, H]: h_t, and 0 where a row is inactive; and h_n [B, G, H], the
        final state of each row.

    Raises:
        ValueError: shapes, dtypes, devices or values do not match.
        RuntimeError: the backend selected by name cannot serve the call.
    """
    given = {"unit_param": bias_hn, "reset_h": reset_h}
    ragged = Ragged(lengths, offsets, resets)
    return _recurrence(pre, arguments(weight_hh, h0, ragged, GRU, reverse_from, **given))[:2]


def _recurrence(pre: Tensor, given: Arguments) -> Outputs:
    if dispatch.requested() == "torch":
        dispatch.raise_unsupported("torch", dispatch.NO_RECURRENCE)
    if autocast.is_autocasting(pre):
        pre, *tensors = autocast.cast(pre, *given.tensors())
        fields: Any = (*tensors, given.mode, given.reverse_from)
        given = Arguments(*fields)
    _checks.recurrence(pre, given)
    return traceable_recurrence(pre, given)


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
) -> tuple[Tensor, Tensor]:
    r"""Compute a stack of recurrent layers, as `torch.nn.RNN` does with the same weights.

    .. math:: h_t = \mathrm{act}(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    W_hh may be block-diagonal: weight_hh [n, H/n, H/n] then holds its blocks, one per head.
    Under autocast all results are computed and returned in the autocast dtype.

    Below, D is 2 if ``bidirectional``, else 1, and L is ``num_layers``.

    Args:
        input: [T, B, I], or [N, I] with ``offsets``.
        h0: [D·L, B, H], the initial states, or None for zeros.
        weights: in the order of nn.RNN's parameters: per layer, then per direction, weight_ih
            [H, I or D·H], weight_hh [H, H] or [n, H/n, H/n], of one shape everywhere, and, with
            ``bias``, bias_ih [H] and bias_hh [H].
        num_layers: L, the number of layers.
        bias: whether ``weights`` contains biases.
        dropout: probability of dropping an output of any layer except the last, in training.
        training: whether dropout is active.
        bidirectional: whether each layer also runs from the last step to the first.
        activation, lengths, offsets, resets: see `recurrence`; resets apply to every layer.
        reset_to: [D·L, H], the states from which a sequence begun by a reset starts, or None for
            zeros: h_t = act(W_ih x_t + b_ih + W_hh ((1 - r_t) h_{t-1} + r_t reset_to) + b_hh),
            where r is resets; in the reverse direction r_{t+1} and h_{t+1}.

    Returns:
        output [T, B, D·H] or [N, D·H], the last layer's states; and h_n [D·L, B, H], the final
        state of each row.

    Raises:
        ValueError: the number of weights or the shape of a weight_hh is wrong; offsets are given
            without lengths; resets have a wrong shape, dtype or device; or the activation is
            unknown.
    """
    mode = _checks.mode_of(activation)
    options = Options(mode, bias, num_layers, dropout, training, bidirectional)
    hx, start = (x if x is None else State(x) for x in (h0, reset_to))
    ragged = Ragged(lengths, offsets, resets)
    _checks.rnn(input, weights, ragged, options)
    output, last = stack.run(input, hx, weights, ragged, start, options)
    return output, last.h


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    r"""Compute a stack of LSTM layers, as `torch.nn.LSTM` does with the same weights.

    .. math::
        (i, f, g, o) &= W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh} \\
        c_t &= \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g) \\
        h_t &= \sigma(o) \odot \tanh(c_t)

    With n heads, each head reads only its own H/n units of h, for all of its gates.

    Args:
        input: [T, B, I], or [N, I] with ``offsets``.
        hx: h_0 and c_0 [D·L, B, H], the initial states, or None for zeros.
        weights: in the order of nn.LSTM's parameters: per layer, then per direction, weight_ih
            [4·H, I or D·H], weight_hh [4·H, H] or [n, 4·H/n, H/n], of one shape everywhere, and,
            with ``bias``, bias_ih [4·H] and bias_hh [4·H]. The gates are in the order i, f, g, o;
            a head's rows of weight_hh are those of its own gates.
        num_layers, bias, dropout, training, bidirectional: see `rnn`.
        lengths, offsets, resets: see `recurrence`; resets apply to every layer.
        reset_to: h and c [D·L, H], the states from which a sequence begun by a reset starts, or
            None for zeros.

    Returns:
        output [T, B, D·H] or [N, D·H], the last layer's h; and (h_n, c_n), [D·L, B, H] each, the
        final states of each row.

    Raises:
        ValueError: the number of weights or the shape of a weight_hh is wrong; offsets are given
            without lengths; or resets have a wrong shape, dtype or device.
    """
    options = Options("LSTM", bias, num_layers, dropout, training, bidirectional)
    first, start = (x if x is None else State(*x) for x in (hx, reset_to))
    ragged = Ragged(lengths, offsets, resets)
    _checks.rnn(input, weights, ragged, options)
    output, last = stack.run(input, first, weights, ragged, start, options)
    return output, (last.h, last.c)


def gru(
    input: Tensor,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Compute a stack of GRU layers, as `torch.nn.GRU` does with the same weights.

    .. math::
        r &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n &= \tanh(W_{in} x_t + b_{in} + r \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    With n heads, each head reads only its own H/n units of h, for all of its gates.

    Args:
        input: [T, B, I], or [N, I] with ``offsets``.
        h0: [D·L, B, H], the initial states, or None for zeros.
        weights: in the order of nn.GRU's parameters: per layer, then per direction, weight_ih
            [3·H, I or D·H], weight_hh [3·H, H] or [n, 3·H/n, H/n], of one shape everywhere, and,
            with ``bias``, bias_ih [3·H] and bias_hh [3·H]. The gates are in the order r, z, n; a
            head's rows of weight_hh are those of its own gates.
        num_layers, bias, dropout, training, bidirectional: see `rnn`.
        lengths, offsets, resets: see `recurrence`; resets apply to every layer.
        reset_to: [D·L, H], the states from which a sequence begun by a reset starts, or None for
            zeros.

    Returns:
        output [T, B, D·H] or [N, D·H], the last layer's states; and h_n [D·L, B, H], the final
        state of each row.

    Raises:
        ValueError: the number of weights or the shape of a weight_hh is wrong; offsets are given
            without lengths; or resets have a wrong shape, dtype or device.
    """
    options = Options("GRU", bias, num_layers, dropout, training, bidirectional)
    hx, start = (x if x is None else State(x) for x in (h0, reset_to))
    ragged = Ragged(lengths, offsets, resets)
    _checks.rnn(input, weights, ragged, options)
    output, last = stack.run(input, hx, weights, ragged, start, options)
    return output, last.h
