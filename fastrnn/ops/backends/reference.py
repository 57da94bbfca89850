"""The reference as a backend: it supports every call, but is slow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from .base import Call, Kernels


class Reference(Kernels):
    """The specification in plain PyTorch, `fastrnn.ops.reference`."""

    name = "reference"

    def unavailable_reason(self) -> None:
        """None: it is available wherever torch is."""

    def unsupported_reason(self, call: Call) -> None:
        """None: it supports every call."""

    def detail(self) -> str:
        """One line for the doctor's table."""
        return "plain PyTorch, every device"

    def forward_out(self, out: Tensor, pre: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """See `Kernels`."""
        computed, h_n = reference.forward(pre, *arguments)
        out.copy_(computed)
        return h_n

    def forward(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """See `Kernels`."""
        return reference.forward(*arguments)

    def backward(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """See `Kernels`."""
        return reference.backward(*arguments)


BACKEND = Reference()
