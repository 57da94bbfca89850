"""Replace one modality of a trained model by another, and keep all other weights.

A model of images and sentences has learned to read sentences, and to compare. If audio replaces
the image, all of that is kept: the fusion's weights for the image become those for the audio.
Only the new encoder is untrained. Train with `--init-from` the folder, and freeze the weights that
were kept.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastrnn.fusion import checkpoint
from fastrnn.fusion.errors import ConfigError
from fastrnn.fusion.models.network import build


def replace_modality(
    source: Path, target: Path, old: str, new: str, options: dict[str, Any] | None = None
) -> Path:
    """Write the run of `source` into `target`, with one modality replaced by another.

    Args:
        source: the folder of a run.
        target: the folder to write; it is created if necessary.
        old: a modality that the source reads.
        new: a modality that the source does not read. Its encoder is newly initialised with the
            source's seed.
        options: fields of ModelConfig that the new encoder needs, such as mels.

    Returns:
        `target`.

    Raises:
        ConfigError: the source is not a run, does not read `old`, or already reads `new`; or the
            order of the modality names, which is the order of their steps, would change.
    """
    network, processor, config = checkpoint.load(source)
    names = config.model.modalities
    if old not in names or new in names:
        raise ConfigError(f"{source} reads {', '.join(names)}: {new} cannot replace {old} there")
    replaced = tuple(new if name == old else name for name in names)
    if replaced != tuple(sorted(replaced)):
        raise ConfigError(
            f"{new} cannot replace {old} in {source}: the modalities would be read in another "
            f"order, {', '.join(sorted(replaced))}, than in training"
        )
    shape = replace(config.model, modalities=replaced, **(options or {}))
    torch.manual_seed(config.train.seed)
    result = build(shape)
    weights = result.state_dict()
    for name, weight in network.state_dict().items():
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
            raise ConfigError(f"{source}: {name} does not fit a network with {new} for {old}")
        weights[renamed] = weight
    result.load_state_dict(weights)
    target.mkdir(parents=True, exist_ok=True)
    columns = {new if role == old else role: name for role, name in config.columns.items()}
    data = replace(
        processor.config,
        image_size=shape.image_size,
        image_channels=shape.image_channels,
        mels=shape.mels,
    )
    carried = replace(
        processor,
        config=data,
        modalities=replaced,
        tokenizer=None if old == "text" else processor.tokenizer,
        series=processor.series or ((0.0, 1.0),) * shape.variables,
    )
    checkpoint.save(target, replace(config, model=shape, columns=columns), result, carried)
    return target
