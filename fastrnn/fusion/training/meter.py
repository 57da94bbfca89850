"""Accumulate the scores of a pass over rows, independent of batches and processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from ..tasks import Task
from ..tasks.base import precise


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

    def named(self, name: str) -> dict[str, float]:
        """Return {"loss": ..., NAME: ...} with the name of the score."""
        return {"loss": self.loss, name: self.score}

    def _rank(self) -> tuple[float, float]:
        return (
            -math.inf if math.isnan(self.score) else self.score,
            -math.inf if math.isnan(self.loss) else -self.loss,
        )


class Meter:
    """Sums the losses and the statistics of a pass. Every process has one; `score` combines them.

    Attributes:
        sums: the weighted loss, the masses and Task.statistics, [2 + S]; None before the first
            batch.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sums: Tensor | None = None

    def add(self, loss: Tensor, mass: float, logits: Tensor, label: Tensor) -> None:
        """Add a batch: its mean loss over `mass` (see Task.masses) and its predictions."""
        statistics = self.task.statistics(logits, label)
        dtype = precise(logits.device)
        loss = loss.detach().to(dtype)
        head = torch.stack([loss * mass, torch.full_like(loss, mass)])
        sums = torch.cat([head, statistics.to(dtype)])
        self.sums = sums if self.sums is None else self.sums + sums

    def score(self, accelerator: Accelerator) -> Score:
        """Return the score over all processes, which must call it together."""
        if self.sums is None:
            raise ValueError("the meter has no batch")
        total = accelerator.reduce(self.sums, "sum").cpu()
        loss, mass = total[:2].tolist()
        return Score(loss / mass if mass else math.nan, self.task.score(total[2:]))
