"""Named settings. A preset gives fields of DataConfig, ModelConfig and TrainConfig their values;
whatever the caller chooses goes before it.

`article` is the network of the article that this package began from, as it stands there: one
convolution over 224 × 224 pixels, flattened; 100 tokens through a recurrent layer; both side by
side into a recurrent layer of 64 and a sigmoid. The article's equations are those of cell "rnn";
its code has "lstm". (It forgot to embed the tokens, which this does.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .config import ModelConfig
from .network import FusionNetwork, LateNetwork, build


@dataclass(frozen=True)
class Preset:
    """Fields of each configuration -> their values."""

    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


PRESETS = {
    "default": Preset(),
    "article": Preset(
        data={"image_size": 224, "image_channels": 3, "max_tokens": 100},
        model={
            "fusion": "concat",
            "cell": "rnn",
            "conv": (64,),
            "grid": 0,
            "width": 128,
            "hidden": 64,
        },
        train={
            "epochs": 10,
            "batch": 32,
            "rate": 1e-3,
            "schedule": "constant",
            "clip": 1e9,  # it clips no gradient
        },
    ),
}


def parameters(config: ModelConfig) -> int:
    """How many numbers the network learns, counted without taking memory for them."""
    with torch.device("meta"):
        return sum(each.numel() for each in build(config).parameters())


def note(config: ModelConfig) -> str:
    """What to know of a network before it is trained: its size, and a weakness it has by design."""
    with torch.device("meta"):
        network = build(config)
    text = f"{sum(each.numel() for each in network.parameters()):,} parameters"
    text += _largest(network) + "."
    if config.fusion == "concat" and config.cell != "none":
        text += (
            " Its recurrent layer reads one step from a zero state, so W_hh never gets a gradient "
            "and is as if it were not there: what one modality means in the light of another must "
            'come out of a single sum. Fusion "tokens" reads a step a modality and their products.'
        )
    if config.fusion == "late":
        text += " It adds logits: nothing of one modality meets another."
    return text


def _largest(network: FusionNetwork | LateNetwork) -> str:
    """Where most of the parameters are, if it is one place."""
    sizes = {name: each.numel() for name, each in network.named_parameters()}
    name = max(sizes, key=lambda each: sizes[each])
    if sizes[name] < sum(sizes.values()) / 2:
        return ""
    shape = " × ".join(f"{size:,}" for size in network.get_parameter(name).shape)
    return f", {sizes[name] / sum(sizes.values()):.1%} of them in {name} ({shape})"
