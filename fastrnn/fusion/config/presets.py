"""Presets: named values for fields of DataConfig, ModelConfig and TrainConfig.

The caller's own options take precedence over the preset.

`article` is the network of the article that this package is based on. One convolution over
224 × 224 pixels is flattened, and 100 tokens pass through a recurrent layer. Both are concatenated
and passed to a recurrent layer of 64 units and a sigmoid. The article's equations are those of cell
"rnn", which the preset selects. Its code has LSTM layers: `--preset article --cell lstm`. The
article's code does not embed the tokens; this preset does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """For each configuration, field name -> value."""

    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


PRESETS = {
    "default": Preset(),
    "article": Preset(
        data={"image_size": 224, "image_channels": 3, "max_tokens": 100, "ngrams": 0},
        model={
            "fusion": "concat",
            "cell": "rnn",
            "conv": (64,),
            "grid": 0,
            "width": 128,
            "hidden": 64,
            "pooling": ("state",),
            "unimodal_heads": False,
            "dropout": 0.0,
        },
        train={
            "epochs": 10,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "weight_decay": 0.0,  # Adam
            "max_grad_norm": 1e9,  # no gradient is clipped
        },
    ),
}
