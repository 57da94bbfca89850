"""The optimizer of a training, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from ..config.schema import TrainConfig
from ..errors import ConfigError
from ..models.pretrained import PretrainedEncoder

Schedule = OneCycleLR | LambdaLR


def make_optimizer(
    network: nn.Module, training: TrainConfig, steps: int
) -> tuple[torch.optim.AdamW, Schedule | None]:
    """Create AdamW (Loshchilov and Hutter 2019) and the schedule of its learning rate.

    Frozen parameters are left out. Weight decay is decoupled from the gradient, and applies only to
    matrices and kernels: not to biases, gains, and what stands for missing modalities and numbers.
    With weight decay 0, AdamW is Adam. Pretrained weights have a learning rate of their own.

    Args:
        steps: steps of an epoch.

    Returns:
        The optimizer, and the schedule; None if the rate is constant.

    Raises:
        ConfigError: the warm-up is not shorter than the training.
    """
    optimizer = torch.optim.AdamW(parameter_groups(network, training))
    return optimizer, _schedule(optimizer, training, training.epochs * steps)


def parameter_groups(network: nn.Module, training: TrainConfig) -> list[dict[str, Any]]:
    """Group the parameters that are trained by whether they are pretrained, and vectors."""
    both = (False, True)
    groups: dict[tuple[bool, bool], list[nn.Parameter]]
    groups = {kind: [] for kind in product(both, both)}
    backbones = [each.backbone for each in network.modules() if isinstance(each, PretrainedEncoder)]
    pretrained = {id(each) for backbone in backbones for each in backbone.parameters()}
    for name, each in network.named_parameters():
        if each.requires_grad:
            is_pretrained = id(each) in pretrained and "lora_" not in name  # adapters are new
            is_vector = each.dim() < 2 or name.endswith((".bias", ".missing"))
            groups[is_pretrained, is_vector].append(each)
    slow = training.pretrained_learning_rate or training.learning_rate / 10
    return [
        {
            "params": found,
            "lr": slow if is_pretrained else training.learning_rate,
            "weight_decay": 0.0 if are_vectors else training.weight_decay,
        }
        for (is_pretrained, are_vectors), found in groups.items()
        if found
    ]


def _schedule(
    optimizer: torch.optim.Optimizer, training: TrainConfig, total: int
) -> Schedule | None:
    if training.schedule == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=total)
    warmup = warmup_of(training, total)
    if training.schedule == "constant" and not warmup:
        return None
    return LambdaLR(optimizer, _factor(training.schedule, warmup, total))


def warmup_of(training: TrainConfig, total: int) -> int:
    """Return the steps of the warm-up, of `total` steps.

    Raises:
        ConfigError: it is not shorter than the training.
    """
    warmup = training.warmup_steps or math.ceil(training.warmup_ratio * total)
    if warmup >= total:
        raise ConfigError(
            f"the warm-up takes {warmup} steps, but the training has only {total}; make "
            "warmup_steps or warmup_ratio smaller, or epochs larger"
        )
    return warmup


def _factor(schedule: str, warmup: int, total: int) -> Callable[[int], float]:
    """Return the learning rate at a step, as a share of the highest: transformers' schedules.

    The rate rises in a line from 0 over the `warmup` steps. Then it stays (constant), or falls to 0
    in a line (linear) or along half a period of a cosine (cosine).
    """

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = (step - warmup) / (total - warmup)
        if schedule == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return 1 - done if schedule == "linear" else 1.0

    return factor


def epochs_of(training: TrainConfig, rows: int) -> int:
    """Return the number of epochs: those given, else 10, or on few rows enough for 500 steps.

    There are at most 50, as a network memorises a small table.
    """
    if training.epochs:
        return training.epochs
    steps = math.ceil(rows / training.batch_size)
    return max(10, min(50, math.ceil(500 / steps)))
