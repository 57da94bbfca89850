"""Rows to batches. Every file is decoded once, when a split is loaded, and kept in memory.

A batch is a dict of tensors (B rows, T steps, padded):

| key | shape | |
|---|---|---|
| frames | uint8 [U, C, S, S] | the distinct images of the batch, each once |
| image | int64 [B], or [B, T] for streams | the row of `frames` |
| audio | float32 [B, F, mels] | log-mel frames |
| audio_lengths | int64 [B] | |
| text | int64 [B, L] | token numbers |
| text_lengths | int64 [B] | |
| steps | bool [B, T] | streams only: the steps that a row has |
| label | int64 [B], or [B, T] with IGNORE where nothing is asked | |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from . import media, text
from .config import DataConfig
from .errors import MediaError
from .manifest import Label, Manifest, Row
from .split import label_names

IGNORE = -100  # the label of a step that is not scored: cross_entropy's own default

Batch = dict[str, Tensor]
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Examples:
    """Decoded rows, indexed as lists are; `collate` makes a batch of some."""

    steps: Sequence[int] | None  # of each row, for streams
    labels: Sequence[Tensor]  # [] or [T]
    frames: Tensor | None = None  # uint8 [N, C, S, S], each file once
    images: Sequence[Tensor] | None = None  # indices into frames, [] or [T]
    audio: Sequence[Tensor] | None = None  # [F, mels]
    text: Sequence[Tensor] | None = None  # [L]
    texts_cut: int = 0  # how many were longer than max_tokens

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> int:
        """The index itself: rows differ in length, so only `collate` touches tensors."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index

    def collate(self, rows: Sequence[int]) -> Batch:
        """The batch of some rows; see the module's table."""
        batch: Batch = {}
        if self.frames is not None and self.images is not None:
            chosen = [self.images[row] for row in rows]
            # Padding is an image that the batch has anyway, so none is encoded for it.
            index = _pad(chosen, int(chosen[0].flatten()[0]))
            distinct, batch["image"] = torch.unique(index, return_inverse=True)
            batch["frames"] = self.frames[distinct]
        for name, values in (("audio", self.audio), ("text", self.text)):
            if values is not None:
                chosen = [values[row] for row in rows]
                batch[name] = _pad(chosen)
                batch[f"{name}_lengths"] = torch.tensor([len(each) for each in chosen])
        if self.steps is not None:
            counts = torch.tensor([self.steps[row] for row in rows])
            batch["steps"] = torch.arange(int(counts.max())) < counts[:, None]
        batch["label"] = _pad([self.labels[row] for row in rows], IGNORE)
        return batch

    def loader(self, size: int, generator: torch.Generator | None = None) -> DataLoader:
        """Batches of `size` rows; shuffled where a generator is given."""
        return DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=size,
            shuffle=generator is not None,
            generator=generator,
            collate_fn=self.collate,
        )

    @property
    def megabytes(self) -> float:
        """Memory the inputs take."""
        parts = [self.audio or (), self.text or (), () if self.frames is None else (self.frames,)]
        return sum(each.nbytes for part in parts for each in part) / 1e6


def _pad(values: Sequence[Tensor], padding: int = 0) -> Tensor:
    if values[0].dim() == 0:
        return torch.stack(list(values))
    return pad_sequence(list(values), batch_first=True, padding_value=padding)


@dataclass(frozen=True)
class Preprocessor:
    """Turns rows into Examples in one fixed way: what a model needs beside its weights."""

    config: DataConfig
    labels: tuple[str, ...]
    tokenizer: Tokenizer | None = None

    @classmethod
    def fit(cls, manifest: Manifest, rows: Iterable[int], config: DataConfig) -> Preprocessor:
        """Learn the labels, and the tokenizer where there are texts, from the training rows."""
        rows = list(rows)
        tokenizer = None
        if "text" in manifest.modalities:
            tokenizer = text.train_tokenizer(_texts(manifest, rows, config), config.vocabulary)
        return cls(config, label_names(manifest, rows), tokenizer)

    @property
    def vocabulary(self) -> int:
        """Tokens known; 0 without text."""
        return 0 if self.tokenizer is None else self.tokenizer.get_vocab_size()

    def load(self, manifest: Manifest, rows: Iterable[int]) -> Examples:
        """Decode some rows.

        Raises:
            MediaError: a file cannot be used; names the manifest, the row, the file, the remedy.
        """
        rows = list(rows)
        table = [manifest.rows[row] for row in rows]
        frames, images = self._images(manifest, rows)
        tokens = self._tokens(manifest, rows)
        return Examples(
            steps=[row.steps for row in table] if manifest.stream else None,
            labels=[self._label(row.label) for row in table],
            frames=frames,
            images=images,
            audio=self._audio(manifest, rows),
            text=None if tokens is None else [ids[: self.config.max_tokens] for ids in tokens],
            texts_cut=sum(len(ids) > self.config.max_tokens for ids in tokens or ()),
        )

    def _images(
        self, manifest: Manifest, rows: list[int]
    ) -> tuple[Tensor | None, list[Tensor] | None]:
        if "image" not in manifest.modalities:
            return None, None
        numbers: dict[Path, int] = {}
        frames: list[Tensor] = []

        def indices(row: Row) -> Tensor:
            for path in row.images:
                if path not in numbers:
                    frames.append(media.read_image(path, self.config))
                    numbers[path] = len(numbers)
            found = torch.tensor([numbers[path] for path in row.images])
            # One image under a list of labels is seen at every step.
            return found.expand(row.steps) if row.stream else found[0]

        images = _each(manifest, rows, indices)
        return torch.stack(frames), images

    def _audio(self, manifest: Manifest, rows: list[int]) -> list[Tensor] | None:
        if "audio" not in manifest.modalities:
            return None
        clips: dict[Path | None, Tensor] = {}

        def clip(row: Row) -> Tensor:
            if row.audio not in clips:
                wave = media.read_audio(_present(row.audio), self.config)
                clips[row.audio] = media.log_mel(wave, self.config)
            return clips[row.audio]

        return _each(manifest, rows, clip)

    def _tokens(self, manifest: Manifest, rows: list[int]) -> list[Tensor] | None:
        if self.tokenizer is None:
            return None
        encoded = self.tokenizer.encode_batch(_texts(manifest, rows, self.config))
        return [torch.tensor(each.ids) for each in encoded]

    def _label(self, value: Label) -> Tensor:
        number = {name: index for index, name in enumerate(self.labels)}
        if isinstance(value, str):
            return torch.tensor(number[value])
        return torch.tensor([IGNORE if name is None else number[name] for name in value])


def _texts(manifest: Manifest, rows: list[int], config: DataConfig) -> list[str]:
    def checked(row: Row) -> str:
        text.check_length(_present(row.text), config)
        return _present(row.text)

    return _each(manifest, rows, checked)


def _present(value: Loaded | None) -> Loaded:
    """A cell of a column that the manifest has, where it lets none be empty."""
    if value is None:
        raise ValueError("a row lacks a value that its manifest has a column for")
    return value


def _each(manifest: Manifest, rows: Iterable[int], work: Callable[[Row], Loaded]) -> list[Loaded]:
    """`work` on every row; what fails is named with the manifest and the row."""
    results = []
    for index in rows:
        row = manifest.rows[index]
        try:
            results.append(work(row))
        except MediaError as error:
            raise MediaError(f"{manifest.path}, {row.where}: {error}") from None
    return results
