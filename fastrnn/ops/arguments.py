"""The arguments that the operators' forward and backward share, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .ragged import DENSE, Ragged


class Arguments(NamedTuple):
    """All arguments of a recurrence except pre, in the order of the operators' schemas.

    K is the number of gates of the cell, 1 for nn.RNN's. A tuple, so that ``*arguments`` passes
    them to an operator.
    """

    weight_hh: Tensor  #: [G, K·H, H]
    h0: Tensor  #: [B, G, H]
    c0: Tensor | None  #: [B, G, H], for cells with a second state
    unit_param: Tensor | None  #: [G, H], a parameter of each hidden unit, see `cells.base.Cell`
    lengths: Tensor | None  #: [B]
    offsets: Tensor | None  #: [T], for packed data
    resets: Tensor | None  #: [T, B], or [N] with offsets
    reset_h: Tensor | None  #: [B, G, H], the state from which a reset starts; None: 0
    reset_c: Tensor | None  #: [B, G, H]
    mode: int  #: the cell's number in `cells.CELLS`
    reverse_from: int  #: groups from this one on run from the last step to the first

    def ragged(self) -> Ragged:
        """Return the ragged structure of the batch."""
        return Ragged(self.lengths, self.offsets, self.resets)

    def tensors(self) -> tuple[Any, ...]:
        """Return the arguments that are tensors or None."""
        return self[:TENSORS]


#: The number of arguments, and of those that are tensors, which come first.
COUNT = len(Arguments._fields)
TENSORS = COUNT - 2


def arguments(
    weight_hh: Tensor,
    h0: Tensor,
    ragged: Ragged = DENSE,
    mode: int = 0,
    reverse_from: int | None = None,
    *,
    c0: Tensor | None = None,
    unit_param: Tensor | None = None,
    reset_h: Tensor | None = None,
    reset_c: Tensor | None = None,
) -> Arguments:
    """Return `Arguments`, with defaults for all that a simple recurrence does not need."""
    if reverse_from is None:
        reverse_from = weight_hh.shape[0]
    return Arguments(weight_hh, h0, c0, unit_param, *ragged, reset_h, reset_c, mode, reverse_from)


class State(NamedTuple):
    """The state of a recurrence, or its gradient."""

    h: Tensor
    c: Any = None  #: a Tensor, for cells with a second state

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Apply a function to h and, if there is one, to c."""
        return State(function(self.h), None if self.c is None else function(self.c))

    def of_layer(self, index: int, directions: int) -> State:
        """Return the part [D, ...] of a state [D·L, ...] that belongs to a layer."""
        return self.map(lambda x: x[index * directions : (index + 1) * directions])


def concatenate(states: Sequence[State]) -> State:
    """Concatenate states along their first dimension."""
    if len(states) == 1:
        return states[0]
    h, c = zip(*states, strict=True)
    return State(torch.cat(h), None if c[0] is None else torch.cat(c))


class Outputs(NamedTuple):
    """The results of the forward. A cell without c, gates or inner values has None there."""

    out: Tensor  #: [T, B, G, H], or [N, G, H] if packed
    h_n: Tensor  #: [B, G, H]
    c_n: Tensor | None = None  #: [B, G, H]
    gates: Tensor | None = None  #: [T, B, G, K·H] or [N, G, K·H]: saved for the backward
    inner: Tensor | None = None  #: as out: saved for the backward


class Gradients(NamedTuple):
    """The results of the backward. None: the cell or the call has no such argument."""

    pre: Tensor  #: [T, B, G, K·H], or [N, G, K·H] if packed
    h0: Tensor  #: [B, G, H]
    c0: Tensor | None = None  #: [B, G, H]
    unit_param: Tensor | None = None  #: as out: to be summed over all steps and rows
    reset_h: Tensor | None = None  #: [B, G, H]
    reset_c: Tensor | None = None  #: [B, G, H]


# An operator returns an empty tensor for each result that is None: a schema has no optional
# results.


def with_empty(results: Iterable[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    """Replace each None by a tensor of shape [0]. They share no memory, as an operator requires."""
    return tuple(like.new_empty(0) if x is None else x for x in results)


def without_empty(results: Iterable[Tensor | None]) -> list[Any]:
    """Replace each tensor of shape [0] by None. No other result is 1-D."""
    return [None if x is None or x.dim() == 1 else x for x in results]
