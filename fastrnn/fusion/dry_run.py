"""What is to be trained, built before any file is decoded: wrong options must not cost that time.

The networks are built without memory for their weights, except where an encoder of the user's own
may need it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from .config import ModelConfig, TrainConfig
from .encoders import BUILT_IN
from .errors import ConfigError
from .train import prepare

_NUMBER = 4  # bytes
_WHILE_TRAINING = 4  # numbers a weight: itself, its gradient and Adam's two moments


def check(
    models: Mapping[str, ModelConfig],
    training: TrainConfig,
    source: tuple[nn.Module, ModelConfig] | None,
    device: torch.device,
) -> None:
    """Refuse options that training would refuse after the files were decoded.

    Args:
        models: name -> configuration; the first is the one that `source` and `freeze` are for.
            Vocabulary and variables, which only files tell, are taken to be those of `source`, or
            the least that they can be.
        source: the network that training starts from, and its configuration.
        device: where it will be trained.

    Raises:
        ConfigError: an encoder is not known, options do not go together, or with `source`; or the
            memory does not suffice.
    """
    known = source[1] if source else None
    vocabulary = (known.vocabulary if known else 0) or 256  # the bytes
    variables = (known.variables if known else 0) or 1
    given = source[0].state_dict() if source else None
    for number, config in enumerate(models.values()):
        own = any(name not in BUILT_IN for _, name in config.encoders)
        if number and own:
            continue  # it may be slow to build, and others differ in nothing that could fail
        with torch.device("cpu" if own else "meta"):
            network, _ = prepare(
                replace(config, vocabulary=vocabulary, variables=variables),
                replace(training, freeze=()) if number else training,
                None if number else given,
            )
        _check_memory(network, _WHILE_TRAINING if device.type == "cpu" else 1)


def _check_memory(network: nn.Module, copies: int) -> None:
    count = sum(each.numel() for each in network.parameters())
    needed = count * _NUMBER * copies
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigError(
            f"the network has {count:,} parameters, which need {needed / 1e9:,.0f} GB, and this "
            f"machine has {memory / 1e9:,.0f} GB; make width, hidden, conv or grid smaller"
        )
