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
