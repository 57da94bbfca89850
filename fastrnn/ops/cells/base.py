"""The interface of a cell: what a step computes, in plain PyTorch.

Every tensor of a step is [B, G, ...] in the accumulation dtype. H is the number of hidden units
and K the number of gates. The last dimension of ``pre``, ``z`` and the saved gates is K·H, gate by
gate. ``pre`` is the input's part of the pre-activations and ``z`` is W_hh h_{t-1}.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..arguments import State

#: Rounds to the storage dtype and back, as a state that is stored.
Store = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """The results of a step, or their gradients."""

    state: State  #: [B, G, H] each
    gates: Any = None  #: [B, G, K·H], saved for the backward by cells that save
    inner: Any = None  #: [B, G, H], saved likewise


class StepGradients(NamedTuple):
    """The results of a step of the backward."""

    pre: Tensor  #: [B, G, K·H]
    z: Tensor  #: [B, G, K·H]; W_hh^T z is a part of the gradient of the previous h
    before: State  #: the rest of the gradient of the previous state
    unit_param: Tensor | None = None  #: [B, G, H]


class Cell(ABC):
    """A cell. Every kernel computes the same as `forward` and `backward`."""

    mode: ClassVar[str]  #: the name of the cell, as nn.RNNBase's attribute
    gates: ClassVar[int]  #: K
    has_c: ClassVar[bool]  #: whether there is a second state, c
    has_unit_param: ClassVar[bool]  #: whether a step uses ``unit_param``
    saves: ClassVar[bool]  #: whether the forward saves gates for the backward
    has_inner: ClassVar[bool]  #: whether it saves an inner value with them
    is_leaky: ClassVar[bool] = False  #: whether ``unit_param`` is a leak, which a layer has

    @classmethod
    @abstractmethod
    def forward(
        cls,
        pre: Tensor,
        z: Tensor,
        before: State,
        unit_param: Tensor | None,  # [G, H]
        store: Store,
    ) -> Step:
        """Compute a step from the state before it."""

    @classmethod
    @abstractmethod
    def backward(
        cls, grad: Step, step: Step, before: State, unit_param: Tensor | None
    ) -> StepGradients:
        """Compute the gradients of a step from those of its results.

        The gradients of the saved gates and inner values are None, except in a second derivative.
        """


def split(x: Tensor, gates: int) -> tuple[Tensor, ...]:
    """[..., K·H] -> K tensors [..., H]."""
    return x.chunk(gates, -1)


def plus(x: Tensor, y: Tensor | None) -> Tensor:
    """Return x + y, or x if y is None."""
    return x if y is None else x + y
