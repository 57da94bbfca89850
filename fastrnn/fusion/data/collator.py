"""Make a batch of samples: pad them, and keep each distinct image once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import IGNORE, Batch
from ..config.inputs import modality_of
from .processor import Processor


@dataclass(frozen=True)
class Collator:
    """Makes the batch of some samples (dataset.py), with the keys in batch.py.

    Attributes:
        inputs: the names of the inputs.
        shapes: the shape of one step of each input, without its dimension of time; N and C of the
            tabular one.
        incomplete: inputs that some row of the dataset lacks; they get NAME_present.
        labelled: whether samples have labels.
        ngrams: whether texts have n-grams.
        features: inputs of which samples have the features of a frozen encoder.
    """

    inputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    stream: bool
    per_step: bool
    incomplete: tuple[str, ...]
    labelled: bool
    ngrams: bool
    features: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        processor: Processor,
        incomplete: tuple[str, ...],
        labelled: bool,
        features: Mapping[str, int] | None = None,
    ) -> Collator:
        """Create the collator of a dataset; `features` are the sizes of those that it has."""
        config = processor.config
        fixed: dict[str, tuple[int, ...]] = {
            "tabular": (processor.numbers, len(processor.categories)),
            "audio": (config.mels,),
            "text": (),
        }
        shapes = {
            name: fixed.get(modality_of(name), (len(processor.scale_of(name)),))
            for name in processor.modalities
        }
        for name in processor.modalities:
            declared = processor.preprocessing_of(name)
            image, audio = declared.image, declared.audio
            if image and modality_of(name) == "image":
                shapes[name] = (image.channels, image.height, image.width)
            elif audio:
                shapes[name] = (audio.bands,) if audio.bands else ()
        sizes = features or {}
        shapes |= {name: (size,) for name, size in sizes.items()}
        return cls(
            processor.modalities,
            shapes,
            processor.stream,
            processor.task.per_step,
            incomplete,
            labelled,
            processor.ngrams > 0,
            tuple(sizes),
        )

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return the batch of some samples."""
        batch: Batch = {}
        for name in self.inputs:
            if modality_of(name) == "image" or name in self.features:
                batch |= self._images(samples, name)
            elif name == "tabular":
                batch |= self._tabular(samples)
            else:
                batch |= self._padded(samples, name)
            if self.ngrams and modality_of(name) == "text":
                batch |= self._ngrams(samples, name)
        for name in self.incomplete:
            batch[f"{name}_present"] = torch.tensor([name in each for each in samples])
        if self.stream:
            counts = torch.tensor([each["steps"] for each in samples])
            batch["steps"] = torch.arange(int(counts.max())) < counts[:, None]
        if self.labelled:
            batch["label"] = self._labels([each["label"] for each in samples])
        return batch

    def _images(self, samples: Sequence[Mapping[str, Any]], name: str) -> Batch:
        """Collect the distinct images, or features; a row without one refers to the first."""
        having = [row for row, sample in enumerate(samples) if name in sample]
        steps = max(each["steps"] for each in samples) if self.stream else 1
        index = np.zeros((len(samples), steps), np.int64)
        if not having:
            dtype = np.float32 if name in self.features else np.uint8
            frames = np.zeros((1, *self.shapes[name]), dtype)
        else:
            numbers = np.concatenate([samples[row][f"{name}_id"] for row in having])
            images = [image for row in having for image in samples[row][name]]
            _, first, place = np.unique(numbers, return_index=True, return_inverse=True)
            shape = (len(first), *self.shapes[name])
            # Without a new dimension for each image, np.stack's, this takes a third of the time.
            frames = np.concatenate([images[number] for number in first.tolist()]).reshape(shape)
            end = 0
            for row in having:
                start, end = end, end + len(samples[row][f"{name}_id"])
                index[row, : end - start] = place[start:end]
        key = f"{name}_features" if name in self.features else f"{name}_frames"
        return {
            key: torch.from_numpy(frames),
            name: torch.from_numpy(index if self.stream else index[:, 0]),
        }

    def _tabular(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack the numbers and categories; all are unknown in a row without any."""
        numbers, categories = self.shapes["tabular"]
        nothing = {
            "tabular": np.zeros(numbers, np.float32),
            "tabular_known": np.zeros(numbers, bool),
            "tabular_categories": np.zeros(categories, np.int64),
        }
        return {
            key: torch.from_numpy(np.stack([each.get(key, empty) for each in samples]))
            for key, empty in nothing.items()
        }

    def _padded(self, samples: Sequence[Mapping[str, Any]], name: str) -> Batch:
        """Pad an input with zeros; a missing one becomes a placeholder of length 1."""
        dtype = np.int64 if modality_of(name) == "text" else np.float32
        lengths = [len(each[name]) if name in each else 1 for each in samples]
        values = np.zeros((len(samples), max(lengths), *self.shapes[name]), dtype)
        for row, sample in enumerate(samples):
            if name in sample:
                values[row, : lengths[row]] = sample[name]
        return {name: torch.from_numpy(values), f"{name}_lengths": torch.tensor(lengths)}

    def _ngrams(self, samples: Sequence[Mapping[str, Any]], name: str) -> Batch:
        """Pad the n-grams of a text with the number 0 and the weight 0."""
        empty = np.zeros(1)
        result: Batch = {}
        for key, dtype in ((f"{name}_ngrams", np.int64), (f"{name}_ngram_weights", np.float32)):
            rows = [each.get(key, empty) for each in samples]
            values = np.zeros((len(rows), max(map(len, rows))), dtype)
            for number, row in enumerate(rows):
                values[number, : len(row)] = row
            result[key] = torch.from_numpy(values)
        return result

    def _labels(self, labels: Sequence[np.ndarray]) -> Tensor:
        if not self.per_step:
            return torch.from_numpy(np.stack(labels))
        values = np.full((len(labels), max(map(len, labels))), IGNORE, np.int64)
        for row, label in enumerate(labels):
            values[row, : len(label)] = label
        return torch.from_numpy(values)
