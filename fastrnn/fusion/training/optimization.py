"""The optimizer of a training, and its learning rate."""

from __future__ import annotations

import torch
from torch import nn

from ..config.schema import TrainConfig

Schedule = torch.optim.lr_scheduler.OneCycleLR


def make_optimizer(
    network: nn.Module, training: TrainConfig, steps: int
) -> tuple[torch.optim.Adam, Schedule | None]:
    """Create Adam for the parameters that are not frozen, and a one-cycle learning rate.

    Args:
        steps: steps of an epoch.

    Returns:
        The optimizer, and the schedule; None if the rate is constant.
    """
    learned = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(learned, training.learning_rate)
    if training.schedule == "constant":
        return optimizer, None
    total = training.epochs * steps
    return optimizer, Schedule(optimizer, training.learning_rate, total_steps=total)
