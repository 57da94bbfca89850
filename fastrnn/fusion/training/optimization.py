"""The optimizer of a training, and its learning rate."""

from __future__ import annotations

from typing import Any

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
    new, pretrained = parameter_groups(network)
    groups: list[dict[str, Any]] = [{"params": new}]
    if pretrained:
        slow = training.pretrained_learning_rate or training.learning_rate / 10
        groups.append({"params": pretrained, "lr": slow})
    optimizer = torch.optim.Adam(groups, training.learning_rate)
    if training.schedule == "constant":
        return optimizer, None
    total = training.epochs * steps
    rates = [group["lr"] for group in optimizer.param_groups]
    return optimizer, Schedule(optimizer, rates, total_steps=total)


def parameter_groups(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that are trained: the new ones, and the pretrained ones."""
    new: list[nn.Parameter] = []
    pretrained: list[nn.Parameter] = []
    for name, each in network.named_parameters():
        if each.requires_grad:
            is_pretrained = ".backbone." in name and "lora_" not in name
            (pretrained if is_pretrained else new).append(each)
    return new, pretrained
