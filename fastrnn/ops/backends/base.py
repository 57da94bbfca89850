"""What a backend is: kernels for the grouped recurrence, and the reasons not to take them.

Every question is answered with a reason, in words a user can act on, or None: nothing is against
it. `dispatch` asks the questions in the order of `Backend`'s methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ragged import Ragged

#: nn.RNNBase's modes, by the numbers of the activations in the operators' schemas.
MODES = ("RNN_TANH", "RNN_RELU")


class Gpu(NamedTuple):
    """A GPU that need not be in this machine: what the choice of a kernel depends on."""

    name: str
    capability: tuple[int, int]
    processors: int  #: multiprocessors
    shared: int  #: bytes of shared memory that a block may ask for
    clusters: tuple[int, int, int, int, int]  #: of 1, 2, 4, 8 and 16 blocks that run at once


class Call(NamedTuple):
    """What is known of a call before it runs. A tuple, because every call makes one."""

    mode: str  #: one of MODES
    steps: int  #: T
    batch: int  #: B
    groups: int  #: G
    hidden: int  #: H
    dtype: torch.dtype
    device: torch.device
    training: bool = False  #: whether a gradient is recorded
    gpu: Gpu | None = None  #: a GPU to assume in the device's place

    @classmethod
    def of(cls, data: Tensor, h0: Tensor, ragged: Ragged, activation: int) -> Call:
        """The call that computes `data`, pre or out, from an initial state [B, G, H]."""
        batch, groups, hidden = h0.shape
        steps = ragged.steps(data)
        return cls(MODES[activation], steps, batch, groups, hidden, h0.dtype, h0.device)

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability of the CUDA device."""
        if self.gpu is not None:
            return self.gpu.capability
        return torch.cuda.get_device_capability(self.device)


class Backend(ABC):
    """An implementation, and the reasons not to take it. `dispatch.BACKENDS` names them all."""

    name: str

    @abstractmethod
    def unavailable_reason(self) -> str | None:
        """Why the backend cannot run on this machine: not built, no GPU, too old a version."""

    @abstractmethod
    def unsupported_reason(self, call: Call) -> str | None:
        """Why it cannot serve the call: its device, its dtype. By name it raises with this."""

    def unverified_reason(self, call: Call) -> str | None:
        """Why `auto` does not trust it with the call: no record proves it on such hardware."""
        return None

    def slower_reason(self, call: Call) -> str | None:
        """Why another backend is faster for the call, by a measurement that the reason names."""
        return None

    @abstractmethod
    def detail(self) -> str:
        """One line for the doctor's table: versions, instruction sets, what is proven."""


class Kernels(Backend):
    """A backend of the grouped recurrence.

    To add one, implement the abstract methods and name it in `dispatch.BACKENDS`. `forward_out`
    and `backward` are given validated tensors of one dtype and device, and know nothing of
    autograd.
    """

    @abstractmethod
    def forward_out(
        self,
        out: Tensor,  # contiguous, as pre; it may be pre itself
        pre: Tensor,  # [T, B, G, H], or [N, G, H] if packed
        weight_hh: Tensor,  # [G, H, H]
        h0: Tensor,  # [B, G, H]
        ragged: Ragged,
        activation: int,
        reverse_from: int,
    ) -> Tensor:
        """Fill `out` with h_t and return h_n [B, G, H]; see `fastrnn.ops.reference.forward`.

        Rows of packed data that no step names are left as they are.
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
        """grad_pre, as out, and grad_h0 [B, G, H]; see `fastrnn.ops.reference.backward`."""

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
        """`forward_out` into a new tensor: out and h_n. Rows that no step names are 0."""
        out = pre.new_zeros(pre.shape) if ragged.is_packed() else pre.new_empty(pre.shape)
        h_n = self.forward_out(out, pre, weight_hh, h0, ragged, activation, reverse_from, **options)
        return out, h_n


def precision_of(dtype: torch.dtype) -> str:
    """How a GPU multiplies a dtype: "float64", "float32", "tf32" or "half".

    float32 as nn.RNN would: cuDNN's RNN rounds it to tf32 unless torch.backends.cudnn says
    otherwise, and so do we.
    """
    if dtype == torch.float64:
        return "float64"
    if dtype != torch.float32:
        return "half"
    precision = torch.backends.cudnn.rnn.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if precision == "tf32" else "float32"
