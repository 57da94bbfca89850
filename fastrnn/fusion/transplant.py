"""A trained model made ready for another modality: what it learned beside the old one goes on.

A model of pictures and sentences knows sentences, and how to compare. Put audio in the picture's
place, and all of that is kept: the fusion's weights for the picture become those for the audio.
Only the new encoder is untrained. `--init-from` the folder, and freeze what was carried over.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import checkpoint
from .errors import ConfigError
from .network import build


def transplant(
    source: Path, target: Path, old: str, new: str, options: dict[str, Any] | None = None
) -> Path:
    """Write into `target` (made if need be) the run of `source` with one modality for another.

    Args:
        old: a modality that the source reads.
        new: one that it does not, whose encoder is drawn afresh, with the source's seed.
        options: fields of ModelConfig that the new encoder needs, such as mels.

    Raises:
        ConfigError: the source is no run, does not read `old`, or reads `new`; or the order of the
            modalities' names, which is that of their steps, would change.
    """
    model, preprocessor, config = checkpoint.load(source)
    names = config.model.modalities
    if old not in names or new in names:
        raise ConfigError(f"{source} reads {', '.join(names)}: {new} cannot replace {old} there")
    replaced = tuple(new if name == old else name for name in names)
    if replaced != tuple(sorted(replaced)):
        raise ConfigError(
            f"with {new} for {old} the modalities of {source} would be read in another order, "
            f"{', '.join(sorted(replaced))}, than it learned"
        )
    shape = replace(config.model, modalities=replaced, **(options or {}))
    torch.manual_seed(config.train.seed)
    result = build(shape)
    weights = result.state_dict()
    for name, weight in model.state_dict().items():
        if name.startswith(f"encoders.{old}."):
            continue
        parts = name.split(".")
        renamed = ".".join(
            "_".join(new if each == old else each for each in part.split("_"))
            if place < len(parts) - 1  # the last is the parameter's own name
            else part
            for place, part in enumerate(parts)
        )
        if renamed not in weights or weights[renamed].shape != weight.shape:
            raise ConfigError(f"{source}: there is no place for its {name} with {new} for {old}")
        weights[renamed] = weight
    result.load_state_dict(weights)
    target.mkdir(parents=True, exist_ok=True)
    columns = {new if role == old else role: name for role, name in config.columns.items()}
    data = replace(
        config.data,
        image_size=shape.image_size,
        image_channels=shape.image_channels,
        mels=shape.mels,
    )
    scales = config.series or ((0.0, 1.0),) * shape.variables
    carried = replace(config, data=data, model=shape, columns=columns, series=scales)
    checkpoint.save(target, carried, result, preprocessor)
    return target
