"""Build the networks before any file is decoded, so that wrong options fail early.

The networks are built on the meta device, without memory for their weights. Only networks with a
custom encoder, which may not support it, are built on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..config.inputs import of_modality
from ..config.schema import ModelConfig, TrainConfig
from ..errors import ConfigError
from ..models.network import has_custom, without_memory
from .transfer import prepare

_NUMBER = 4  # bytes
_WHILE_TRAINING = 4  # values per weight: itself, its gradient and Adam's two moments


def check(
    models: Mapping[str, ModelConfig],
    training: TrainConfig,
    source: tuple[nn.Module, ModelConfig] | None,
    device: torch.device,
) -> None:
    """Reject options that training would reject only after decoding the files.

    Args:
        models: name -> configuration. `source` and `freeze` apply to the first one. Vocabulary and
            variables are not known before the files are read, so those of `source` are assumed,
            or else their minimum.
        training: the training options.
        source: the network that training starts from, and its configuration.
        device: the device to train on.

    Raises:
        ConfigError: an encoder is unknown, options contradict each other or `source`, or there is
            not enough memory.
    """
    known = source[1] if source else None
    vocabulary = (known.vocabulary if known else 0) or 256  # one token per byte
    given = source[0].state_dict() if source else None
    for number, config in enumerate(models.values()):
        own = has_custom(config)
        if number and own:
            continue  # may be slow to build, and cannot fail if the first did not
        with nullcontext() if own else without_memory():
            network, _ = prepare(
                replace(config, vocabulary=vocabulary, **_sizes(config, known)),
                replace(training, freeze=()) if number else training,
                None if number else given,
            )
        _check_memory(network, _WHILE_TRAINING if device.type == "cpu" else 1)


def _sizes(config: ModelConfig, known: ModelConfig | None) -> dict[str, Any]:
    """Return the variables of each series and the tabular features, as far as they are known."""
    series = of_modality(config.modalities, "series")
    count = {name: (known.variables_of(name) if known else 0) or 1 for name in series}
    several = {name: each for name, each in count.items() if name != "series"}
    return {
        "variables": count.get("series", 0),
        "series_variables": tuple(several.items()),
        "numbers": (known.numbers if known else 0) or 1,
        "categories": known.categories if known else (),
    }


def _check_memory(network: nn.Module, copies: int) -> None:
    parameters = list(network.parameters())
    count = sum(each.numel() for each in parameters)
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    needed = (count + trained * (copies - 1)) * _NUMBER
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigError(
            f"the network has {count:,} parameters, which need {needed / 1e9:,.0f} GB, but this "
            f"machine has {memory / 1e9:,.0f} GB; make width, hidden, conv or grid smaller"
        )
