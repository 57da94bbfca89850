"""The interface of a backend: kernels for the grouped recurrence, and reasons not to use them.

Every ``*_reason`` method returns a reason that a user can act on, or None if there is none.
`dispatch` calls them in the order in which `Backend` defines them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import Arguments, Gradients, Outputs, State, arguments
from ..cells import CELLS
from ..cells.base import Step
from ..ragged import Ragged


class Gpu(NamedTuple):
    """The properties of a GPU that kernel selection depends on; it may be in another machine."""

    name: str
    capability: tuple[int, int]
    processors: int  #: the number of multiprocessors
    shared: int  #: the maximum bytes of shared memory per block
    clusters: tuple[int, int, int, int, int]  #: concurrent clusters of 1, 2, 4, 8 and 16 blocks


class Call(NamedTuple):
    """The properties of a call that are known before it runs. A tuple, to keep its cost low."""

    mode: str  #: the mode of one of `cells.CELLS`
    steps: int  #: T
    batch: int  #: B
    groups: int  #: G
    hidden: int  #: H
    dtype: torch.dtype
    device: torch.device
    training: bool = False  #: whether a gradient is recorded
    gpu: Gpu | None = None  #: a GPU to assume instead of the device

    @classmethod
    def of(cls, data: Tensor, h0: Tensor, ragged: Ragged, mode: int) -> Call:
        """Describe a call with `data`, pre or out, and an initial state [B, G, H]."""
        batch, groups, hidden = h0.shape
        steps = ragged.steps(data)
        return cls(CELLS[mode].mode, steps, batch, groups, hidden, h0.dtype, h0.device)

    def is_of_nn_rnn(self) -> bool:
        """Whether the cell is one of nn.RNN's."""
        return self.mode.startswith("RNN_")

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability of the CUDA device."""
        if self.gpu is not None:
            return self.gpu.capability
        return torch.cuda.get_device_capability(self.device)


class Backend(ABC):
    """An implementation, and the reasons not to use it. `dispatch.BACKENDS` lists all backends."""

    name: str

    @abstractmethod
    def unavailable_reason(self) -> str | None:
        """Why the backend cannot run on this machine: not built, no GPU, too old a version."""

    @abstractmethod
    def unsupported_reason(self, call: Call) -> str | None:
        """Why it does not support the call, for example its device or dtype.

        A backend requested by name raises an error with this reason.
        """

    def unverified_reason(self, call: Call) -> str | None:
        """Why `auto` must not use it for the call: no record verifies it on such hardware."""
        return None

    def slower_reason(self, call: Call) -> str | None:
        """Why another backend is faster for the call; the reason names the measurement."""
        return None

    @abstractmethod
    def detail(self) -> str:
        """One line for the doctor's table: versions, instruction sets, verified hardware."""


class Kernels(Backend):
    """A backend of the grouped recurrence, which serves at least nn.RNN's cells.

    To add one, implement the abstract methods and list it in `dispatch.BACKENDS`. Its methods
    receive validated tensors of one dtype and device, and know nothing of autograd. The methods
    named after the operators implement them. By default they call `forward_out` and `backward`,
    the same for nn.RNN's cells only. A backend of all cells is an `AllCells`.
    """

    @abstractmethod
    def forward_out(
        self,
        out: Tensor,  # contiguous, shaped as pre; may be pre itself
        pre: Tensor,  # [T, B, G, H], or [N, G, H] if packed
        weight_hh: Tensor,  # [G, H, H]
        h0: Tensor,  # [B, G, H]
        ragged: Ragged,
        activation: int,  # RNN_TANH or RNN_RELU of `cells`
        reverse_from: int,
    ) -> Tensor:
        """Fill `out` with h_t and return h_n [B, G, H]; see `fastrnn.ops.reference.forward`.

        Rows of packed data that belong to no step are not written.
        """

    @abstractmethod
    def backward(
        self,
        grad_out: Tensor,  # as out
        grad_h_n: Tensor,  # [B, G, H]
        out: Tensor,  # [T, B, G, H], or [N, G, H] if packed
        weight_hh: Tensor,  # [G, H, H]
        h0: Tensor,  # [B, G, H]
        ragged: Ragged,
        activation: int,
        reverse_from: int,
    ) -> tuple[Tensor, Tensor]:
        """Return grad_pre, as out, and grad_h0 [B, G, H]; see `fastrnn.ops.reference.backward`."""

    def forward(
        self,
        pre: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        ragged: Ragged,
        activation: int,
        reverse_from: int,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Run `forward_out` on a new tensor; return out and h_n.

        Rows of packed data that belong to no step are 0.
        """
        out = pre.new_zeros(pre.shape) if ragged.is_packed() else pre.new_empty(pre.shape)
        h_n = self.forward_out(out, pre, weight_hh, h0, ragged, activation, reverse_from, **options)
        return out, h_n

    def recurrence(self, pre: Tensor, arguments: Arguments, save: bool, **options: Any) -> Outputs:
        """Run `recurrence_out` on new tensors, with gates and inner if `save` and the cell saves.

        Rows of packed data that belong to no step are 0.
        """
        cell, h0 = CELLS[arguments.mode], arguments.h0
        new = pre.new_zeros if arguments.offsets is not None else pre.new_empty
        shape = *pre.shape[:-1], h0.shape[-1]
        out, gates, inner = new(shape), None, None
        c_n = h0.new_empty(h0.shape) if cell.has_c else None
        if save and cell.saves:
            gates, inner = new(pre.shape), new(shape) if cell.has_inner else None
        h_n = self.recurrence_out(pre, arguments, out, c_n, gates, inner, **options)
        return Outputs(out, h_n, c_n, gates, inner)

    def recurrence_out(
        self,
        pre: Tensor,  # [T, B, G, K·H], or [N, G, K·H] if packed
        arguments: Arguments,
        out: Tensor,  # contiguous, as all results; may be pre itself if K = 1
        c_n: Tensor | None = None,
        gates: Tensor | None = None,  # may be pre itself
        inner: Tensor | None = None,
    ) -> Tensor:
        """Fill the results, shaped as in `Outputs`, and return h_n [B, G, H].

        Rows of packed data that belong to no step are not written.
        """
        return self.forward_out(out, pre, *_of_nn_rnn(arguments))

    def recurrence_backward(self, grads: Outputs, saved: Step, arguments: Arguments) -> Gradients:
        """Compute `fastrnn.ops.reference.backward`; the gates and inner values have no gradient."""
        given = _of_nn_rnn(arguments)
        return Gradients(*self.backward(grads.out, grads.h_n, saved.state.h, *given))


def check_starts_from_0(arguments: Arguments) -> None:
    """Raise ValueError if a call of nn.RNN's cells starts from reset_h after a reset.

    The GPU kernels of these cells start from 0.
    """
    if arguments.reset_h is not None and not CELLS[arguments.mode].saves:
        raise ValueError("no kernel of this backend starts from reset_h: add W_hh reset_h to pre")


def _of_nn_rnn(arguments: Arguments) -> tuple[Tensor, Tensor, Ragged, int, int]:
    check_starts_from_0(arguments)
    ragged = arguments.ragged()
    return arguments.weight_hh, arguments.h0, ragged, arguments.mode, arguments.reverse_from


class AllCells(Kernels):
    """A backend that serves all cells: it implements the operators' methods instead."""

    @abstractmethod
    def recurrence_out(
        self,
        pre: Tensor,
        arguments: Arguments,
        out: Tensor,
        c_n: Tensor | None = None,
        gates: Tensor | None = None,
        inner: Tensor | None = None,
    ) -> Tensor:
        """See `Kernels`."""

    @abstractmethod
    def recurrence_backward(self, grads: Outputs, saved: Step, arguments: Arguments) -> Gradients:
        """See `Kernels`."""

    def forward_out(self, out: Tensor, pre: Tensor, *of_nn_rnn: Any, **options: Any) -> Tensor:
        """See `Kernels`."""
        return self.recurrence_out(pre, arguments(*of_nn_rnn), out, **options)

    def backward(
        self, grad_out: Tensor, grad_h_n: Tensor, out: Tensor, *of_nn_rnn: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """See `Kernels`."""
        grads, saved = Outputs(grad_out, grad_h_n), Step(State(out))
        return self.recurrence_backward(grads, saved, arguments(*of_nn_rnn), **options)[:2]


def precision_of(dtype: torch.dtype) -> str:
    """Return the precision of a dtype's GPU products: "float64", "float32", "tf32" or "half".

    float32 follows nn.RNN: cuDNN's RNN rounds it to tf32 unless torch.backends.cudnn disables that.
    """
    if dtype == torch.float64:
        return "float64"
    if dtype != torch.float32:
        return "half"
    precision = torch.backends.cudnn.rnn.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if precision == "tf32" else "float32"
