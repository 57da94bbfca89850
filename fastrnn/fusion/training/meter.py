"""Accumulate the scores of a pass over rows, independent of batches and processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric, SumMetric

from ..data.processor import IGNORE, Examples
from ..tasks import objectives


@dataclass(frozen=True)
class Score:
    """The result of one pass over a split: the mean loss, and a score where higher is better."""

    loss: float
    score: float

    def better(self, other: Score | None) -> bool:
        """Whether the score is higher, or equal with a lower loss; nan is worst."""
        if other is None:
            return True
        return self._rank() > other._rank()

    def _rank(self) -> tuple[float, float]:
        return (
            -math.inf if math.isnan(self.score) else self.score,
            -math.inf if math.isnan(self.loss) else -self.loss,
        )


class Meter:
    """Accumulates the batches of one pass. Every process has a Meter; `score` combines them."""

    def __init__(self, problem_type: str, outputs: int, device: torch.device) -> None:
        self.problem_type = problem_type
        # MeanMetric with nan_strategy="disable" ignores weights.
        self._loss = SumMetric(nan_strategy="disable").to(device)
        self._mass = SumMetric(nan_strategy="disable").to(device)
        labels = 2 if problem_type == "binary" else outputs  # one logit distinguishes two labels
        self._metric = objectives.metric(problem_type, labels).to(device)

    def add(self, loss: Tensor, mass: float, logits: Tensor, label: Tensor) -> None:
        """Add a batch: its mean loss over `mass` (see `masses`) and its predictions."""
        self._loss.update(loss * mass)
        self._mass.update(mass)
        self._metric.update(objectives.predict(self.problem_type, logits), label)

    def score(self) -> Score:
        """Return the score over all processes. All processes must call it together."""
        loss, mass = float(self._loss.compute()), float(self._mass.compute())
        return Score(loss / mass if mass else math.nan, float(self._metric.compute()))

    def state(self) -> dict[str, Tensor]:
        """Return the metric state of this process as tensors."""
        return {
            f"{name}.{key}": value
            for name, metric in self._metrics().items()
            for key, value in metric.metric_state.items()
            if isinstance(value, Tensor)
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for name, metric in self._metrics().items():
            for key, value in metric.metric_state.items():
                if isinstance(value, Tensor):
                    setattr(metric, key, state[f"{name}.{key}"].to(value))
            metric._update_count = 1  # otherwise `compute` warns that nothing was added

    def _metrics(self) -> dict[str, Metric]:
        return {"loss": self._loss, "mass": self._mass, "metric": self._metric}


def weight(problem_type: str, examples: Examples, outputs: int) -> Tensor:
    """Compute the weights that balance the labels of some rows: the `weight` of objectives.loss.

    Returns:
        [1] for binary: the ratio of rows with the first label to rows with the second. [C] for
        multiclass and steps: the inverse of each label's share, divided by C. [C] for multilabel:
        the ratio of rows without the label to rows with it.
    """
    if problem_type == "multilabel":
        having = torch.stack(list(examples.labels)).sum(0)
        return (len(examples) - having) / having.clamp_min(1)
    values = torch.cat([each.flatten() for each in examples.labels])
    counts = torch.bincount(values[values != IGNORE], minlength=max(2, outputs)).clamp_min(1)
    if problem_type == "binary":
        return (counts[:1] / counts[1:]).float()
    return counts.sum() / (counts * len(counts)).float()


def masses(problem_type: str, labels: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Compute each row's share of the divisor in objectives.loss: float64 [N].

    The mean loss of a batch is the mean of the mean losses of its parts, weighted by their masses,
    for any division into parts. A step without a label adds nothing. With `weight`, a label of
    multiclass or steps adds its weight.
    """
    if problem_type == "steps":
        scored = [row[row != IGNORE] for row in labels]
        each = [len(row) if weight is None else weight[row].double().sum() for row in scored]
        return torch.tensor([float(value) for value in each], dtype=torch.float64)
    if problem_type == "multiclass" and weight is not None:
        return weight.double()[torch.stack(list(labels))]
    return torch.ones(len(labels), dtype=torch.float64)
