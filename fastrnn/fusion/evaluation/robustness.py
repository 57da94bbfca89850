"""The score of a network on degraded inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config.inputs import modality_of
from ..config.schema import ModelConfig
from ..data.dataset import FusionDataset
from ..inference.loop import Change, InferenceConfig, predictions
from ..tasks.metrics import plain
from . import perturbations
from .bootstrap import value

_SILENCE_MS = 500


def robustness(
    network: nn.Module,
    config: ModelConfig,
    dataset: FusionDataset,
    unchanged: float,
    inference: InferenceConfig | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compute the main score with each input removed, changed in time, and with increasing noise.

    `drop` is the loss of score. `strength` is the ratio of the standard deviations of noise and
    signal; for text it is the fraction of tokens and n-grams replaced. It is null for the other
    changes. A clip of audio gets half a second of silence at its end or at its start ("shifted").
    Of audio and series also only the first half is kept. Audio is not changed in time if its
    encoder has its own preprocessing.

    Args:
        unchanged: the score on the unchanged rows.
        inference: the batch size, and the processes that decode files.
        seed: seed of the noise.
    """

    def judged(modality: str, what: str, strength: float | None, change: Change) -> dict[str, Any]:
        found = predictions(network, dataset, inference, change)
        score = value(found, found.task.score_name)
        return {
            "modality": modality,
            "change": what,
            "strength": strength,
            "score": plain(score),
            "drop": plain(unchanged - score),
        }

    dataset = dataset.shuffle(seed)  # changes mix the rows of a block
    result = []
    for modality in config.modalities:
        if len(config.modalities) > 1:
            result.append(judged(modality, "removed", None, _removing(modality)))
        for what, change in _in_time(modality, config, dataset).items():
            result.append(judged(modality, what, None, change))
        what = "tokens replaced" if modality_of(modality) == "text" else "noise"
        for strength in perturbations.STRENGTHS:
            change = _noising(modality, strength, seed, config)
            result.append(judged(modality, what, strength, change))
    return result


def _removing(modality: str) -> Change:
    return lambda batch: perturbations.remove(batch, modality)


def _in_time(name: str, config: ModelConfig, dataset: FusionDataset) -> dict[str, Change]:
    """Return the changes of an input in time: log-mel frames and series that are no streams."""
    modality, processor = modality_of(name), dataset.processor
    if config.stream or not (modality == "series" or processor.log_mels([name])):
        return {}
    found: dict[str, Change] = {"cut short": lambda batch: perturbations.cut_short(batch, name)}
    if modality == "audio":
        frames = round(_SILENCE_MS / processor.config.hop_ms)
        found["silence appended"] = lambda batch: perturbations.add_silence(batch, name, frames)
        found["shifted"] = lambda batch: perturbations.add_silence(batch, name, frames, before=True)
    return found


def _noising(modality: str, strength: float, seed: int, config: ModelConfig) -> Change:
    generator = torch.Generator().manual_seed(seed)
    return lambda batch: perturbations.noise(
        batch, modality, strength, generator, config.vocabulary_of(modality), config.categories
    )
