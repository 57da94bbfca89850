"""The interface of a provider: an implementation to measure, ours or a baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from ..shapes import Case
from ..workload import Call, Workload


class Provider(ABC):
    """An implementation of a recurrent layer, or of the recurrence alone."""

    name: str

    #: The types of devices that it runs on.
    devices: tuple[str, ...] = ("cpu", "cuda")

    #: Whether the first call compiles. Its time then says nothing about later calls.
    compiles = False

    #: Whether it keeps the memory of a call for the next call, which hides the peak.
    keeps_memory = False

    def unavailable_reason(self, device: str) -> str | None:
        """Return why it cannot run on this machine on a device of this type, or None."""
        return None

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        """Return why it cannot compute this case, or None."""
        return None

    def adapt(self, workload: Workload) -> Workload:
        """Return an equivalent workload that this provider can compute."""
        return workload

    @abstractmethod
    def prepare(self, workload: Workload) -> Call:
        """Do the one-time work, and return the call to be timed.

        A call may return the results in a format of the provider's own: see `tensors`.
        """

    def tensors(self, results: Any, workload: Workload) -> list[Tensor]:
        """Convert the results of a call to those of the workload.

        Results are converted before they are verified, but not in the calls that are timed. Nor
        are the inputs: users of another library have their data in its format.
        """
        return results

    def context(self) -> AbstractContextManager[object]:
        """Return a context for its calls."""
        return nullcontext()

    def __str__(self) -> str:
        return self.name
