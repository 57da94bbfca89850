"""The recurrence alone, which the kernels compute."""

from collections.abc import Callable

from .baselines import Provider
from .shapes import Case

QUANTITY, SCOPE = "time", "recurrence"

Measure = Callable[[Case, Provider], None]


def test_inference(case: Case, provider: Provider, measure_time: Measure) -> None:
    measure_time(case, provider)


def test_forward(case: Case, provider: Provider, measure_time: Measure) -> None:
    measure_time(case, provider)


def test_training(case: Case, provider: Provider, measure_time: Measure) -> None:
    measure_time(case, provider)
