"""Bootstrap confidence intervals of scores.

A score is a function of item weights (tasks/metrics.py). The bootstrap draws rows, not single
steps: the steps of a row stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tasks import Metrics, Predictions
from ..tasks.metrics import plain

RESAMPLES = 500
LEVEL = 0.95  # confidence level of the intervals
_BLOCK = 4_000_000  # weights in memory at once


@dataclass(frozen=True)
class Interval:
    """A score and the bounds of its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return plain JSON values; undefined ones are null."""
        return {name: plain(getattr(self, name)) for name in ("value", "low", "high")}


def scores(
    predictions: Predictions, weights: Tensor, threshold: float = 0.5, *, areas: bool = True
) -> Metrics:
    """Compute every score under each weighting of the rows, [R, rows]; see Task.metrics."""
    of_items = weights[:, predictions.row]
    return predictions.task.metrics(predictions, of_items, threshold, areas=areas)


def value(predictions: Predictions, name: str) -> float:
    """Compute one score over all rows. AUROC is not available here."""
    ones = torch.ones(1, predictions.rows, dtype=torch.float64)
    return float(scores(predictions, ones, areas=False)[name])


def intervals(
    predictions: Predictions, seed: int = 0, threshold: float = 0.5
) -> dict[str, Interval]:
    """Compute every score with its interval. The same seed draws the same rows for every model."""
    ones = torch.ones(1, predictions.rows, dtype=torch.float64)
    values = scores(predictions, ones, threshold)
    drawn = resample(lambda weights: scores(predictions, weights, threshold), predictions, seed)
    return {name: interval(float(value), drawn[name]) for name, value in values.items()}


def difference(a: Predictions, b: Predictions, name: str, seed: int = 0) -> Interval:
    """Compute the score `name` of `a` minus that of `b`, with a paired bootstrap over rows."""

    def minus(weights: Tensor) -> Metrics:
        first, second = (scores(each, weights, areas=False)[name] for each in (a, b))
        return {name: first - second}

    ones = torch.ones(1, a.rows, dtype=torch.float64)
    return interval(float(minus(ones)[name]), resample(minus, a, seed)[name])


def interval(value: float, drawn: Tensor) -> Interval:
    """Return the value with the central LEVEL interval of the drawn scores."""
    drawn = drawn[drawn.isfinite()]
    if not len(drawn):
        return Interval(value, float("nan"), float("nan"))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=drawn.dtype)
    low, high = torch.quantile(drawn, tails).tolist()
    return Interval(value, low, high)


def resample(score: Callable[[Tensor], Metrics], predictions: Predictions, seed: int) -> Metrics:
    """Compute `score` for RESAMPLES bootstrap draws of the rows of `predictions`."""
    parts = [score(weights) for weights in _draws(predictions, seed)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _draws(predictions: Predictions, seed: int) -> Iterator[Tensor]:
    """Yield the weights of the rows, [R, rows]: with replacement, the same for every block size."""
    rows = predictions.rows
    generator = torch.Generator().manual_seed(seed)
    # A row may have many items, and its weight is repeated for each.
    block = max(1, min(RESAMPLES, _BLOCK // max(rows, len(predictions.truth))))
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        drawn = torch.randint(rows, (count, rows), generator=generator)
        ones = torch.ones(count, rows, dtype=torch.float64)
        yield torch.zeros_like(ones).scatter_add_(1, drawn, ones)
