"""The reference as a backend: it supports every call, but is slow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from ..arguments import Arguments, Gradients, Outputs
from ..cells.base import Step
from .base import AllCells, Call


class Reference(AllCells):
    """The specification in plain PyTorch, `fastrnn.ops.reference`."""

    name = "reference"

    def unavailable_reason(self) -> None:
        """None: it is available wherever torch is."""

    def unsupported_reason(self, call: Call) -> None:
        """None: it supports every call."""

    def detail(self) -> str:
        """One line for the doctor's table."""
        return "plain PyTorch, every device"

    def recurrence(self, pre: Tensor, arguments: Arguments, save: bool, **options: Any) -> Outputs:
        """See `Kernels`."""
        results = reference.forward(pre, arguments)
        return results if save else results._replace(gates=None, inner=None)

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
        results = reference.forward(pre, arguments)
        given = out, None, c_n, gates, inner
        for tensor, computed in zip(given, results, strict=True):
            if tensor is not None and computed is not None:
                tensor.copy_(computed)
        return results.h_n

    def recurrence_backward(self, grads: Outputs, saved: Step, arguments: Arguments) -> Gradients:
        """See `Kernels`."""
        return reference.backward(grads, saved, arguments)


BACKEND = Reference()
