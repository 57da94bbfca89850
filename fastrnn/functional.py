"""The recurrence as functions: what the layers are made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _checks
from .ops import autocast, flops, stack  # noqa: F401 (flops registers itself)
from .ops.backends import dispatch
from .ops.layer import traceable_recurrence
from .ops.options import Options
from .ops.ragged import Ragged
from .ops.reference import ACTIVATION_CODES

__all__ = ["recurrence", "rnn"]


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
        RuntimeError: the backend that was asked for by name cannot serve the call.
    """
    if dispatch.requested() == "torch":
        dispatch.raise_unsupported("torch", dispatch.NO_RECURRENCE)
    if reverse_from is None:
        reverse_from = weight_hh.shape[0]
    if autocast.is_autocasting(pre):
        pre, weight_hh, h0 = autocast.cast(pre, weight_hh, h0)
    ragged = Ragged(lengths, offsets, resets)
    _checks.recurrence(pre, weight_hh, h0, ragged, activation, reverse_from)
    code = ACTIVATION_CODES[activation]
    return traceable_recurrence(pre, weight_hh, h0, ragged, code, reverse_from)


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
    ragged = Ragged(lengths, offsets, resets)
    options = Options(activation, bias, num_layers, dropout, training, bidirectional)
    _checks.rnn(input, weights, ragged, options)
    return stack.rnn(input, h0, weights, ragged, reset_to, options)
