"""What an encoder sees: its own input, as if it were the only one of its modality."""

from __future__ import annotations

from dataclasses import replace

from ..batch import Batch
from ..config.inputs import ENDINGS, modality_of, of_modality
from ..config.schema import ModelConfig
from ..errors import ConfigError


def view(batch: Batch, name: str) -> Batch:
    """Return a batch as the encoder of an input sees it, with the keys of the modality alone."""
    modality = modality_of(name)
    if modality == name:
        return batch
    result = {key: value for key, value in batch.items() if ":" not in key}
    own = {modality + ending: batch.get(name + ending) for ending in ENDINGS}
    return result | {key: value for key, value in own.items() if value is not None}


def config_of(config: ModelConfig, name: str) -> ModelConfig:
    """Return the configuration that an encoder is built from, in which its input is the only one.

    Args:
        name: an input, or the modality of inputs that share the encoder.
    """
    leader = stepping(config)
    leads = not leader or config.encoder_of(leader) == name
    return replace(
        config,
        modalities=(modality_of(name),),
        fusion=config.fusion if leads else "tokens",  # others need no steps
        variables=_variables(config, name),
        series_variables=(),
        missing=(),
        modality_dropout=0.0,
        encoders=(),
        finetune=(),
        pretrained=(),
        share=(),
    )


def _variables(config: ModelConfig, name: str) -> int:
    """Return the number of variables of a series; columns that share an encoder have the same.

    Raises:
        ConfigError: they differ.
    """
    series = of_modality(config.modalities, "series")
    found = {config.variables_of(each) for each in series if config.encoder_of(each) == name}
    if len(found) > 1:
        raise ConfigError(
            f"{', '.join(series)} have different numbers of variables, so they cannot share an "
            "encoder; remove series from share"
        )
    return found.pop() if found else config.variables


def stepping(config: ModelConfig) -> str:
    """Return the input whose steps the fusion follows, or "" if it follows none.

    The first that exists of the texts, audio, series and an image's grid. The encoder of this input
    returns steps.

    Raises:
        ConfigError: the fusion needs such an input, but none has steps.
    """
    if config.fusion not in ("parallel", "init"):
        return ""
    for modality in ("text", "audio", "series", *["image"] * config.image_steps):
        for name in of_modality(config.modalities, modality):
            return name
    raise ConfigError(
        f"fusion {config.fusion} follows the steps of text, audio or a series, but the model has "
        "none: set image_steps, or choose fusion tokens"
    )
