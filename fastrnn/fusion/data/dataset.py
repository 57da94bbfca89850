"""Decoded rows, and batches of them. Files are decoded once per split and kept in memory.

A batch is a dict of tensors (B rows; T steps and L tokens or steps of a series, padded):

| key | shape | |
|---|---|---|
| frames | uint8 [U, C, S, S] | the distinct images of the batch |
| image | int64 [B], or [B, T] for streams | index into `frames` |
| audio | float32 [B, F, mels] | log-mel frames |
| audio_lengths | int64 [B] | |
| text | int64 [B, L] | token ids |
| text_lengths | int64 [B] | |
| series | float32 [B, L, K] | standardised by the training rows' mean and std |
| series_lengths | int64 [B] | |
| NAME_present | bool [B] | rows that have NAME: image, audio, text or series |
| steps | bool [B, T] | streams only: valid steps |
| label | int64 [B] | binary, multiclass: index of the label |
| | int64 [B, T] | steps: IGNORE at steps without a label |
| | float32 [B, C] | multilabel: 1 for each label that applies, else 0 |
| | float32 [B] | regression: standardised by data.Preprocessor.target |

NAME_present exists only if a row of the Examples lacks the modality. Such a row has a placeholder
that no network may read: a valid index, or zeros of length 1. `label` exists only if rows have
labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

IGNORE = -100  # the label of a step that is not scored; cross_entropy's default
ABSENT = -1  # in `images`: the row has no image

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Examples:
    """Decoded rows as a dataset; `collate` makes a batch of some."""

    steps: Sequence[int] | None  # number of steps of each row, for streams
    labels: Sequence[Tensor]  # label of each row: [], [T] or [C]; empty without labels
    frames: Tensor | None = None  # uint8 [N, C, S, S], the distinct images
    images: Sequence[Tensor] | None = None  # indices into frames or ABSENT, [] or [T]
    audio: Sequence[Tensor] | None = None  # [F, mels]
    text: Sequence[Tensor] | None = None  # [L]
    texts_cut: int = 0  # number of texts longer than max_tokens
    series: Sequence[Tensor] | None = None  # [L, K]
    # whether each row has the modality, for modalities that some row lacks
    present: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    rows: tuple[int, ...] = ()  # number of each row in the manifest
    skipped: tuple[tuple[str, str], ...] = ()  # (where, error) of rows left out

    def __len__(self) -> int:
        columns = (self.labels, self.images, self.audio, self.text, self.series)
        return max(len(each) for each in columns if each is not None)

    def __getitem__(self, index: int) -> int:
        """Return the index itself: rows differ in length, so only `collate` touches tensors."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index

    def collate(self, rows: Sequence[int]) -> Batch:
        """Return the batch of some rows; see the table in the module's docstring."""
        batch: Batch = {}
        if self.frames is not None and self.images is not None:
            index = _pad([self.images[row] for row in rows], ABSENT)
            # Reuse an image of the batch as placeholder, so that no extra image is encoded.
            index[index == ABSENT] = int(next((each for each in index[index != ABSENT]), 0))
            distinct, batch["image"] = torch.unique(index, return_inverse=True)
            batch["frames"] = self.frames[distinct]
        columns = {"audio": self.audio, "text": self.text, "series": self.series}
        for name, values in columns.items():
            if values is not None:
                chosen = [values[row] for row in rows]
                batch[name] = _pad(chosen)
                batch[f"{name}_lengths"] = torch.tensor([len(each) for each in chosen])
        for name, present in self.present.items():
            batch[f"{name}_present"] = torch.tensor([present[row] for row in rows])
        if self.steps is not None:
            counts = torch.tensor([self.steps[row] for row in rows])
            batch["steps"] = torch.arange(int(counts.max())) < counts[:, None]
        if self.labels:
            batch["label"] = _pad([self.labels[row] for row in rows], IGNORE)
        return batch

    def loader(
        self, size: int, generator: torch.Generator | None = None, num_workers: int = 0
    ) -> DataLoader:
        """Create a DataLoader of batches of `size` rows, shuffled if a generator is given.

        `num_workers` is the number of processes that collate; the batches do not depend on it.
        """
        return DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=size,
            shuffle=generator is not None,
            generator=generator,
            num_workers=num_workers,
            collate_fn=self.collate,
        )

    @property
    def megabytes(self) -> float:
        """Memory of the inputs in MB."""
        columns = (self.audio, self.text, self.series)
        parts = [each for part in columns for each in part or ()]
        frames = [] if self.frames is None else [self.frames]
        return sum(each.nbytes for each in (*parts, *frames)) / 1e6


def _pad(values: Sequence[Tensor], padding: int = 0) -> Tensor:
    if values[0].dim() == 0:
        return torch.stack(list(values))
    return pad_sequence(list(values), batch_first=True, padding_value=padding)
