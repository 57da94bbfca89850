"""What the encoders of a model declare about their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config.inputs import modality_of
from ..config.preprocessing import Preprocessing
from ..config.pretrained import PretrainedConfig
from ..config.schema import ModelConfig
from ..data.preprocessing import without_paths
from ..models.imported import declared_preprocessing


def declarations(config: ModelConfig) -> dict[str, Preprocessing]:
    """Return the preprocessing that encoders declare, by input; texts with their tokenizers' paths.

    Raises:
        ConfigError: a custom encoder declares one of another modality.
    """
    encoders = dict(config.encoders)
    found = {}
    for name in config.modalities:
        key, modality = config.encoder_of(name), modality_of(name)
        pretrained = config.pretrained_of(key)
        encoder = encoders.get(key, encoders.get(modality, ""))
        declared = pretrained.preprocessing if pretrained else declared_preprocessing(encoder)
        if declared is not None:
            found[name] = Preprocessing.of(modality, declared)
    return found


def saved(pretrained: Mapping[str, PretrainedConfig]) -> dict[str, PretrainedConfig]:
    """Return pretrained encoders as they are saved, without the paths of their tokenizers."""
    plain = without_paths({name: each.preprocessing for name, each in pretrained.items()})
    return {name: replace(each, preprocessing=plain[name]) for name, each in pretrained.items()}
