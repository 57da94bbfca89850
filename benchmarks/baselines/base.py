"""The interface of a provider: an implementation that is measured, ours or a baseline."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ..shapes import Case
from ..workload import Call, Workload


class Provider:
    """An implementation of a recurrent network, or of the recurrence alone."""

    name: str

    #: The types of devices that it runs on.
    devices: tuple[str, ...] = ("cpu", "cuda")

    #: Whether the first call compiles, so that its time says nothing about later calls.
    compiles = False

    #: Whether it keeps the memory of a call for the next one, which hides its peak.
    keeps_memory = False

    def unavailable_reason(self, device: str) -> str | None:
        """Why it cannot run on this machine, on a device of one of its types, or None."""
        return None

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        """Why it cannot compute this case, or None."""
        return None

    def adapt(self, workload: Workload) -> Workload:
        """The workload as this provider can compute it; its results are compared to this one's."""
        return workload

    def prepare(self, workload: Workload) -> Call:
        """Do all that is done once, and return the call to be timed."""
        raise NotImplementedError

    def context(self) -> AbstractContextManager[object]:
        """A context in which its calls are made."""
        return nullcontext()

    def __str__(self) -> str:
        return self.name
