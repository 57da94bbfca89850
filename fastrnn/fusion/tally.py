"""Scores of a pass over rows, however they are divided into batches and among processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric, SumMetric

from . import objective
from .data import IGNORE, Examples


@dataclass(frozen=True)
class Score:
    """One pass over a split: the mean loss, and what is to be high: accuracy, say."""

    loss: float
    score: float

    def better(self, other: Score | None) -> bool:
        """Higher than the other's score, or as high at a lower loss; nan is worst."""
        if other is None:
            return True
        return self._rank() > other._rank()

    def _rank(self) -> tuple[float, float]:
        return (
            -math.inf if math.isnan(self.score) else self.score,
            -math.inf if math.isnan(self.loss) else -self.loss,
        )


class Tally:
    """Adds up the batches of one pass; every process has one and `score` joins them."""

    def __init__(self, kind: str, outputs: int, device: torch.device) -> None:
        self.kind = kind
        # Not MeanMetric: where it need not look for nan, it takes all weights for 1.
        self._loss = SumMetric(nan_strategy="disable").to(device)
        self._mass = SumMetric(nan_strategy="disable").to(device)
        self._metric = objective.metric(kind, max(2, outputs)).to(device)

    def add(self, loss: Tensor, mass: float, logits: Tensor, label: Tensor) -> None:
        """Count a batch: its mean loss over `mass` (see `masses`) and its answers."""
        self._loss.update(loss * mass)
        self._mass.update(mass)
        self._metric.update(objective.predict(self.kind, logits), label)

    def score(self) -> Score:
        """The score of what all processes have counted; they call it together."""
        loss, mass = float(self._loss.compute()), float(self._mass.compute())
        return Score(loss / mass if mass else math.nan, float(self._metric.compute()))

    def state(self) -> dict[str, Tensor]:
        """What this process has counted, as tensors."""
        return {
            f"{name}.{key}": value
            for name, metric in self._metrics().items()
            for key, value in metric.metric_state.items()
            if isinstance(value, Tensor)
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        for name, metric in self._metrics().items():
            for key, value in metric.metric_state.items():
                if isinstance(value, Tensor):
                    setattr(metric, key, state[f"{name}.{key}"].to(value))
            metric._update_count = 1  # else `compute` warns that nothing was counted

    def _metrics(self) -> dict[str, Metric]:
        return {"loss": self._loss, "mass": self._mass, "metric": self._metric}


def weight(kind: str, examples: Examples, outputs: int) -> Tensor:
    """What balances the labels of some rows: objective.loss's `weight`.

    Returns:
        [1] for binary: how many more rows have the first label than the second. [C] for several
        labels (of rows or steps): the inverse of their share, divided by C. [C] for multilabel:
        how many more rows lack the label than have it.
    """
    if kind == "multilabel":
        having = torch.stack(list(examples.labels)).sum(0)
        return (len(examples) - having) / having.clamp_min(1)
    values = torch.cat([each.flatten() for each in examples.labels])
    counts = torch.bincount(values[values != IGNORE], minlength=max(2, outputs)).clamp_min(1)
    if kind == "binary":
        return (counts[:1] / counts[1:]).float()
    return counts.sum() / (counts * len(counts)).float()


def masses(kind: str, labels: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """What each row adds to the number that objective.loss divides a batch's sum by: float64 [N].

    The mean loss of a batch is then the mean of its parts' mean losses by their masses, however it
    is divided. A step that is not scored adds nothing; a label of several adds its weight.
    """
    if kind == "steps":
        scored = [row[row != IGNORE] for row in labels]
        each = [len(row) if weight is None else weight[row].double().sum() for row in scored]
        return torch.tensor([float(value) for value in each], dtype=torch.float64)
    if kind == "multiclass" and weight is not None:
        return weight.double()[torch.stack(list(labels))]
    return torch.ones(len(labels), dtype=torch.float64)
