"""Compute the features of frozen pretrained encoders once, before training.

Every network of a run reads the same features, because the encoders have the same weights. They are
in a temporary file of each process, which has no name and so disappears with the run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from ..batch import Batch, to_device
from ..config.inputs import modality_of, of_modality
from ..config.schema import ModelConfig, RunConfig, TrainConfig
from ..data.dataset import FusionDataset
from ..data.features import Features
from ..data.loader import BatchLoader
from ..data.ragged import Ragged, distinct
from ..models.pretrained import PretrainedEncoder, PretrainedImage
from ..models.views import stepping, view
from .transfer import prepare

_ROWS = 32  # of one batch

Datasets = Mapping[str, FusionDataset]


def with_features(
    datasets: Datasets,
    config: RunConfig,
    accelerator: Accelerator,
    folder: Path | None,
    num_workers: int = 0,
) -> dict[str, FusionDataset]:
    """Return datasets that have the features of frozen encoders in place of their inputs.

    Args:
        datasets: split -> rows.
        config: the run, with its main network.
        folder: where the temporary file is; by default the system's folder for them.

    Raises:
        DataError: a file cannot be used; the message names the row and the file.
    """
    model, training = config.model, config.train
    names = [name for name in model.modalities if is_cached(model, training, name)]
    if not names or not training.cache_features:
        return dict(datasets)
    network, _ = prepare(model, replace(training, freeze=()))
    network.to(accelerator.device).eval()
    features = {}
    for name in names:
        encoder = _pretrained(network, name)
        with accelerator.autocast(), torch.no_grad():
            features[name] = _compute(datasets, name, encoder, accelerator, folder, num_workers)
    return {
        split: replace(
            each,
            media={name: files for name, files in each.media.items() if name not in features},
            tokens={name: tokens for name, tokens in each.tokens.items() if name not in features},
            features=features,
        )
        for split, each in datasets.items()
    }


def is_cached(config: ModelConfig, training: TrainConfig, name: str) -> bool:
    """Whether the encoder of an input is frozen and has one vector for each distinct input.

    Augmented images differ in each epoch. Audio of pretrained encoders is not augmented.
    """
    if modality_of(name) == "image" and training.augment_images in ("crop", "flip"):
        return False
    pretrained = config.pretrained_of(config.encoder_of(name))
    if pretrained is None or pretrained.finetune != "frozen":
        return False
    divided = config.stream and modality_of(name) == "audio"  # into the steps of a row
    steps = stepping(config)  # the input whose encoder, perhaps that of others too, returns steps
    return not divided and not (steps and config.encoder_of(steps) == config.encoder_of(name))


def has_frozen_images(config: ModelConfig, training: TrainConfig) -> bool:
    """Whether the features of all images can be computed once, unless images are augmented."""
    training = replace(training, augment_images="none")
    images = of_modality(config.modalities, "image")
    return training.cache_features and all(is_cached(config, training, name) for name in images)


def _pretrained(network: nn.Module, name: str) -> PretrainedEncoder:
    encoder = network.encoder(name)  # type: ignore[operator]
    return next(each for each in encoder.modules() if isinstance(each, PretrainedEncoder))


def _compute(
    datasets: Datasets,
    name: str,
    encoder: PretrainedEncoder,
    accelerator: Accelerator,
    folder: Path | None,
    num_workers: int,
) -> Features:
    """Encode the distinct inputs of all rows, divided among the processes."""
    one = next(iter(datasets.values()))
    if modality_of(name) == "text":
        numbers, texts = distinct(one.manifest.rows.column(name))
        count = len(texts)
    else:
        numbers, count = one.media[name].numbers, len(one.media[name])
    with tempfile.TemporaryFile(dir=folder) as file:
        values = np.memmap(file, np.float32, "w+", shape=(count, encoder.features))
    seen = np.zeros(count, bool)
    device = next(encoder.parameters()).device
    processes, process = accelerator.num_processes, accelerator.process_index
    for dataset in datasets.values():
        alone = _with_unseen(dataset, name, numbers, seen)
        blocks = [
            range(start, min(start + _ROWS, len(alone))) for start in range(0, len(alone), _ROWS)
        ]
        batches = iter(BatchLoader(alone, blocks[process::processes], num_workers))
        for first in range(0, len(blocks), processes):  # each process encodes a block
            own = []
            for block in blocks[first + process : first + process + 1]:
                which = np.concatenate([numbers[int(row)] for row in alone.rows[list(block)]])
                # The collator sorts distinct images.
                which = np.unique(which) if modality_of(name) == "image" else which
                found = _encode(encoder, view(to_device(next(batches), device), name))
                own.append((which, found.float().cpu().numpy()))
            for which, encoded in gather_object(own):
                values[which] = encoded
        for _ in batches:  # lets the workers finish
            raise RuntimeError("the loader has more batches than blocks")
    return Features(numbers, values)


def _encode(encoder: PretrainedEncoder, batch: Batch) -> Tensor:
    if isinstance(encoder, PretrainedImage):
        return encoder.encode_frames(batch)
    return encoder.encode(batch)


def _with_unseen(
    dataset: FusionDataset, name: str, numbers: Ragged, seen: np.ndarray
) -> FusionDataset:
    """Return the rows with an input that no row before has, and only this input of them."""

    def unseen() -> Iterator[int]:
        for index, row in enumerate(dataset.rows.tolist()):
            if not seen[numbers[row]].all():
                seen[numbers[row]] = True
                yield index

    chosen = dataset.select(list(unseen()))
    return replace(
        chosen,
        media={each: files for each, files in chosen.media.items() if each == name},
        tokens={each: tokens for each, tokens in chosen.tokens.items() if each == name},
        cells=None,
    )
