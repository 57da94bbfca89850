"""The result of the training of one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from ..checkpoint import Weights
from .meter import Score

Scores = dict[str, Score]


@dataclass
class Trained:
    """A trained network and its training history."""

    name: str
    model: nn.Module  # with the weights of its best epoch
    epochs: list[Scores] = field(default_factory=list)  # train and val scores of each epoch
    final: Scores = field(default_factory=dict)  # val of the best epoch, and test if there is one
    seconds: float = 0.0  # time of training and validation
    last: Weights | None = None  # the weights after the last epoch, if another was the best
    threshold: float | None = None  # as RunConfig.threshold, if it was tuned

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(each.numel() for each in self.model.parameters())

    @property
    def test_score(self) -> Score:
        """The score on test rows if there are any, else on val rows."""
        return self.final.get("test", self.final["val"])

    @property
    def best(self) -> int:
        """The epoch with the highest val score; ties go to the lowest loss, then to the first."""
        return best_epoch(self.epochs)


def best_epoch(epochs: Sequence[Scores]) -> int:
    """Return the best epoch, as `Trained.best`; 0 before the first epoch."""
    best, found = None, 0
    for number, scores in enumerate(epochs, 1):
        if scores["val"].better(best):
            best, found = scores["val"], number
    return found
