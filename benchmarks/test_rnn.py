"""The time of a call of fastrnn and of each baseline, measured by pytest-benchmark.

A result is verified before it is timed. Each group of a table has one case and all its providers.
pytest-benchmark times them one after another; `python -m benchmarks run` interleaves them.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from .baselines import Provider
from .runner import verified_call
from .workload import Workload


def test_inference(benchmark: BenchmarkFixture, provider: Provider, workload: Workload) -> None:
    with verified_call(provider, workload) as call:
        benchmark(call)


def test_training(benchmark: BenchmarkFixture, provider: Provider, workload: Workload) -> None:
    """Forward and backward."""
    with verified_call(provider, workload) as call:
        benchmark(call)
