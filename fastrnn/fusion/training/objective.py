"""The loss of a training: weights of the labels, and label smoothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config.schema import TrainConfig
from ..data.dataset import FusionDataset
from ..errors import ConfigError
from ..tasks import Task


class Objective:
    """The loss of a batch, and the share of each row in it.

    Attributes:
        masses: for each split, each row's share of the divisor in the loss; see Task.masses.
    """

    def __init__(
        self, datasets: Mapping[str, FusionDataset], training: TrainConfig, device: torch.device
    ) -> None:
        rows = datasets["train"]
        self.task, self.smoothing = rows.processor.task, training.label_smoothing
        check(self.task, training)
        weight = rows.balance() if training.balance else None
        if training.class_weight:
            weight = self.task.class_weight(dict(training.class_weight))
        self.masses = {split: each.masses(weight) for split, each in datasets.items()}
        self.weight = None if weight is None else weight.to(device)

    def __call__(self, logits: Tensor, label: Tensor, *, smooth: bool) -> Tensor:
        """Compute the mean loss of a batch; `smooth` in training only."""
        weight = None if self.weight is None else self.weight.to(logits)
        return self.task.loss(logits, label, weight, self.smoothing if smooth else 0.0)


def check(task: Task, training: TrainConfig) -> None:
    """Check that the options of the loss fit the labels.

    Raises:
        ConfigError: an option does not apply to a regression, or a label is unknown.
    """
    if task.problem_type == "regression":
        for name in ("balance", "class_weight", "label_smoothing"):
            if getattr(training, name):
                raise ConfigError(f"{name} does not apply to regression; omit it")
    task.class_weight(dict(training.class_weight))
