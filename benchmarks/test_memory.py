"""The peak memory of a layer's call, beyond what was allocated before it."""

from collections.abc import Callable

from .baselines import Provider
from .shapes import Case

QUANTITY, SCOPE = "memory", "layer"

Measure = Callable[[Case, Provider], None]


def test_inference(case: Case, provider: Provider, measure_memory: Measure) -> None:
    measure_memory(case, provider)


def test_training(case: Case, provider: Provider, measure_memory: Measure) -> None:
    measure_memory(case, provider)
