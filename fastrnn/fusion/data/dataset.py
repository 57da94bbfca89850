"""The rows of a manifest as a map-style dataset, whose files are decoded when a row is asked for.

A sample is a dict of a row's arrays; `collator.Collator` makes a batch of several:

| key | |
|---|---|
| row | the row's number in the dataset |
| NAME | image: uint8 arrays [C, S, S], a list with one for each step |
| | audio: float32 [F, mels], or as its encoder declares |
| | text: token ids [L] |
| | series: float32 [L, K], standardised |
| | tabular: float32 [N], with tabular_known and tabular_categories as in batch.py |
| NAME_id | image: int32 [T], equal for equal images |
| steps | the number of steps; 1 if rows are not streams |
| label | as in a batch (batch.py), without its dimension B |

NAME is the name of an input (config/inputs.py). One that the row lacks has no key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..batch import IGNORE, Batch
from ..config.inputs import FILES, modality_of, of_modality
from ..errors import DataError, FusionError, ManifestError, MediaError
from . import text
from .bad_rows import BadRows, located
from .cache import MEMORY, make_cache
from .checks import check_columns, far_cells, problems
from .collator import Collator
from .decoding import MediaFiles
from .features import Features
from .manifest import Manifest
from .ngrams import ngrams
from .processor import Processor
from .ragged import Ragged
from .tabular import TabularArrays
from .timeseries import standardise

Sample = dict[str, Any]

_CHUNK = 4096  # rows whose labels are tensors at the same time


@dataclass(frozen=True)
class FusionDataset(Dataset[Sample]):
    """Rows of a manifest as a model reads them. `load_datasets` creates those of a split.

    Attributes:
        rows: the number of each row in the manifest.
        skipped: (where, error) of the rows that were left out.
        truncated: the number of texts longer than max_tokens.
    """

    manifest: Manifest
    processor: Processor
    rows: np.ndarray  # int64 [N]
    media: Mapping[str, MediaFiles]
    encoded: Ragged | np.ndarray | None  # the labels, [N], [N, C] or N arrays of T
    tokens: Mapping[str, Ragged]  # of each text
    skipped: tuple[tuple[str, str], ...] = ()
    truncated: int = 0
    cells: TabularArrays | None = None  # of the tabular columns
    features: Mapping[str, Features] = field(default_factory=dict)  # instead of files and tokens

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Decode a row.

        Raises:
            DataError: one of its files cannot be used. The message names the manifest, the row, the
                file and the remedy.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._sample(index, int(self.rows[index]))
        except MediaError as error:
            where = self.manifest.where(int(self.rows[index]))
            raise located(self.manifest.path, where, error) from None

    def _sample(self, index: int, row: int) -> Sample:
        sample: Sample = {"row": index, "steps": int(self.steps[index])}
        sources: dict[str, MediaFiles | Features] = {**self.media, **self.features}
        for name, files in sources.items():
            numbers = files.numbers[row]
            if not len(numbers):
                continue
            arrays = list(map(files.load, numbers.tolist()))
            if modality_of(name) == "image" or name in self.features:
                repeats = sample["steps"] if len(arrays) == 1 else 1  # one image at every step
                sample[name], sample[f"{name}_id"] = arrays * repeats, numbers.repeat(repeats)
            else:
                sample[name] = arrays[0]
        for name in of_modality(self.processor.modalities, "series"):
            values = None if name in sample else self.manifest.rows.values(name, row)
            if values is not None:
                sample[name] = standardise(values, self.processor.scale_of(name))
        lacking = self.lacking
        for name, tokens in self.tokens.items():
            if not (name in lacking and lacking[name][index]):
                sample[name] = tokens[index]
        for name in of_modality(self.processor.modalities, "text"):
            if self.processor.ngrams and name in sample:  # also with the features of a text
                found = ngrams(self.text(index, name), self.processor.ngrams)
                sample[f"{name}_ngrams"], sample[f"{name}_ngram_weights"] = found
        if self.cells is not None and not ("tabular" in lacking and lacking["tabular"][index]):
            sample["tabular"] = self.cells.numbers[index]
            sample["tabular_known"] = self.cells.known[index]
            sample["tabular_categories"] = self.cells.categories[index]
        if self.encoded is not None:
            sample["label"] = self.encoded[index]
        return sample

    @cached_property
    def steps(self) -> np.ndarray:
        """The number of steps of each row, int64 [N]; 1 if rows are not streams."""
        if not self.processor.stream:
            return np.ones(len(self), np.int64)
        return self.manifest.rows.steps()[self.rows]

    @cached_property
    def lacking(self) -> dict[str, np.ndarray]:
        """For each input that some row lacks: whether each row lacks it, bool [N]."""
        found = {}
        for name in self.processor.modalities:
            missing = self.manifest.rows.lacking(name)[self.rows]
            if missing.any():
                found[name] = missing
        return found

    @cached_property
    def collator(self) -> Collator:
        """The function that makes a batch of samples."""
        sizes = {name: each.values.shape[1] for name, each in self.features.items()}
        return Collator.of(self.processor, tuple(self.lacking), self.encoded is not None, sizes)

    def batch(self, rows: Iterable[int]) -> Batch:
        """Return the batch of some rows."""
        return self.collator([self[row] for row in rows])

    def shuffle(self, seed: int) -> FusionDataset:
        """Return the dataset in random order: neighbours in a table often have the same label."""
        generator = torch.Generator().manual_seed(seed)
        return self.select(torch.randperm(len(self), generator=generator).tolist())

    def select(
        self, rows: Sequence[int], skipped: tuple[tuple[str, str], ...] = ()
    ) -> FusionDataset:
        """Return the dataset with only these rows; `skipped` names those that are left out."""
        chosen = np.asarray(rows, np.int64)
        encoded = self.encoded
        if isinstance(encoded, Ragged):
            encoded = Ragged.of((encoded[row] for row in rows), np.int64)
        elif encoded is not None:
            encoded = encoded[chosen]
        tokens = {
            name: Ragged.of((each[row] for row in rows), each.values.dtype)
            for name, each in self.tokens.items()
        }
        return replace(
            self,
            rows=self.rows[chosen],
            encoded=encoded,
            tokens=tokens,
            cells=None if self.cells is None else self.cells.select(chosen),
            skipped=self.skipped + skipped,
        )

    def where(self, index: int) -> str:
        """Return the position of a row in its table, for messages."""
        return self.manifest.where(int(self.rows[index]))

    def text(self, index: int, name: str) -> str:
        """Return the text of a row that has the input."""
        return self.manifest.rows.column(name)[int(self.rows[index])].as_py()

    def labels(self, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """Return the labels of some rows as in a batch; steps are padded with IGNORE."""
        if self.encoded is None:
            raise ManifestError(f"{self.manifest.path}: the rows were read without labels")
        if isinstance(self.encoded, Ragged):
            chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
            values = [torch.from_numpy(self.encoded[row]) for row in chosen]
            return pad_sequence(values, batch_first=True, padding_value=IGNORE)
        return torch.from_numpy(self.encoded[rows])

    def masses(self, weight: Tensor | None = None) -> Tensor:
        """Return each row's share of the divisor in the loss, float64 [N]; see Task.masses."""
        starts = range(0, len(self), _CHUNK)
        parts = (self.labels(slice(start, start + _CHUNK)) for start in starts)
        return torch.cat([self.processor.task.masses(part, weight) for part in parts])

    def flat_labels(self) -> Tensor:
        """Return the labels of all rows; those of steps one after another, without padding."""
        if isinstance(self.encoded, Ragged):
            return torch.from_numpy(self.encoded.values)
        return self.labels()

    def balance(self) -> Tensor:
        """Return the weights that balance the labels; see Task.balance."""
        return self.processor.task.balance(self.flat_labels())


def load_datasets(
    manifest: Manifest,
    parts: Mapping[str, Sequence[int]],
    processor: Processor,
    *,
    on_bad_row: str = "error",
    cache: str | None = None,
    cache_size: int = MEMORY,
    folder: Path | None = None,
) -> dict[str, FusionDataset]:
    """Create a dataset for each part of a manifest. Cells are checked; no file is opened.

    Args:
        parts: name -> numbers of rows of the manifest.
        on_bad_row: "skip" to leave out rows whose cells cannot be used. `FusionDataset.skipped` has
            their places and errors.
        cache: "memory" to keep decoded files up to `cache_size` bytes, "disk" to keep them all in
            a temporary file, None to decode a file each time.
        folder: where a disk cache is created; by default the system's folder for temporary files.

    Raises:
        DataError: a cell cannot be used, or no labelled row can be. The message names the manifest,
            the row and the remedy.
        ConfigError: an unknown cache.
    """
    check_columns(manifest, processor)
    media = {
        name: MediaFiles.of(
            manifest,
            name,
            processor.config,
            processor.scale_of(name),
            processor.preprocessing_of(name),
        )
        for name in processor.modalities
        if modality_of(name) in FILES
    }
    slots = 0
    for each in media.values():
        each.first_slot, slots = slots, slots + len(each)
    stored = make_cache(cache, slots, cache_size, folder)
    for each in media.values():
        each.cache = stored
    return {
        name: _dataset(manifest, rows, processor, media, on_bad_row) for name, rows in parts.items()
    }


def load_dataset(
    manifest: Manifest,
    processor: Processor,
    rows: Sequence[int] | None = None,
    *,
    on_bad_row: str = "error",
    cache: str | None = None,
) -> FusionDataset:
    """Create the dataset of some rows of a manifest, or of all; see `load_datasets`."""
    parts = {"": range(len(manifest)) if rows is None else rows}
    return load_datasets(manifest, parts, processor, on_bad_row=on_bad_row, cache=cache)[""]


def _dataset(
    manifest: Manifest,
    rows: Sequence[int],
    processor: Processor,
    media: Mapping[str, MediaFiles],
    on_bad_row: str,
) -> FusionDataset:
    bad = BadRows(on_bad_row)
    cells = processor.cells(manifest, rows)
    found = problems(manifest, np.asarray(rows, np.int64), processor)
    found |= {} if cells is None else far_cells(processor, cells, rows)
    labels = manifest.labels(rows) if manifest.labelled else [None] * len(rows)
    kept, places = [], []  # row numbers, and their positions in `rows`
    encoded: list[np.ndarray] = []
    for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
        try:
            if row in found:
                raise found[row]
            if label is not None:
                encoded.append(processor.task.encode(label))
            kept.append(row)
            places.append(place)
        except FusionError as error:
            where = manifest.where(row)
            bad.add(where, located(manifest.path, where, error))
    if manifest.labelled and len(rows) and not kept:
        raise DataError(f"{manifest.path}: no row can be used; the first error: {bad.listed[0][1]}")
    tokens, truncated = _tokens(manifest, kept, processor)
    packed: Ragged | np.ndarray | None = None
    if manifest.labelled:
        packed = Ragged.of(encoded, np.int64) if processor.task.per_step else np.array(encoded)
    return FusionDataset(
        manifest, processor, np.array(kept, np.int64), media, packed, tokens,
        tuple(bad.listed), truncated, cells and cells.select(np.array(places, np.int64)),
    )  # fmt: skip


def _tokens(
    manifest: Manifest, rows: Sequence[int], processor: Processor
) -> tuple[dict[str, Ragged], int]:
    """Return the tokens of each text of the rows, and how many texts were truncated."""
    found, truncated = {}, 0
    for name in of_modality(processor.modalities, "text"):
        tokenizer = processor.tokenizer_of(name)
        if tokenizer is not None:
            column = manifest.rows.column(name)
            texts = (column[row].as_py() for row in rows)
            most = processor.config.max_tokens
            found[name], cut = text.tokenize(tokenizer, texts, most)
            truncated += cut
    return found, truncated
