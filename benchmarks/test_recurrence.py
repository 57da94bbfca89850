"""The recurrence alone: what the kernels are for."""

from collections.abc import Callable

from .providers import Provider
from .shapes import Case

WHAT, SCOPE = "time", "recurrence"

Timed = Callable[[Case, Provider], None]


def test_inference(case: Case, provider: Provider, timed: Timed) -> None:
    timed(case, provider)


def test_forward(case: Case, provider: Provider, timed: Timed) -> None:
    timed(case, provider)


def test_training(case: Case, provider: Provider, timed: Timed) -> None:
    timed(case, provider)
