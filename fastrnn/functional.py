"""Functional forms of the recurrence, which the layers call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _checks
from .ops import autocast, flops, stack  # noqa: F401 (imported for its registration)
from .ops.arguments import State, arguments
from .ops.backends import dispatch
from .ops.cells import CODES
from .ops.layer import traceable_recurrence
from .ops.options import Options
from .ops.ragged import Ragged

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
    if dispatch.requested() == "torch":
        dispatch.raise_unsupported("torch", dispatch.NO_RECURRENCE)
    if reverse_from is None:
        reverse_from = weight_hh.shape[0]
    if autocast.is_autocasting(pre):
        pre, weight_hh, h0 = autocast.cast(pre, weight_hh, h0)
    ragged = Ragged(lengths, offsets, resets)
    _checks.recurrence(pre, weight_hh, h0, ragged, reverse_from)
    code = CODES[_checks.mode_of(activation)]
    given = arguments(weight_hh, h0, ragged, code, reverse_from)
    return traceable_recurrence(pre, given)[:2]


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
        ValueError: the number of weights is wrong; the shapes of weight_hh differ; offsets are
            given without lengths; resets have a wrong shape, dtype or device; or the activation
            is unknown.
    """
    ragged = Ragged(lengths, offsets, resets)
    mode = _checks.mode_of(activation)
    options = Options(mode, bias, num_layers, dropout, training, bidirectional)
    _checks.rnn(input, weights, ragged, options)
    hx, start = (x if x is None else State(x) for x in (h0, reset_to))
    output, last = stack.run(input, hx, weights, ragged, start, options)
    return output, last.h
