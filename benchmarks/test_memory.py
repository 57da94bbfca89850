"""The most memory that a layer's call holds, on top of what was there before it."""

from collections.abc import Callable

from .providers import Provider
from .shapes import Case

WHAT, SCOPE = "memory", "layer"

Weighed = Callable[[Case, Provider], None]


def test_inference(case: Case, provider: Provider, weighed: Weighed) -> None:
    weighed(case, provider)


def test_training(case: Case, provider: Provider, weighed: Weighed) -> None:
    weighed(case, provider)
