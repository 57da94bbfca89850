"""A batch: a dict of tensors, which the networks read and data.collator builds.

The keys of an input begin with its name: the modality, or the modality and a column, as in
"image:front" (config/inputs.py). All tabular columns are one input, `tabular`. With B rows, T
steps, L tokens or steps of a series and G n-grams, padded, N numbers and C categories:

| key | shape | |
|---|---|---|
| NAME | int64 [B], or [B, T] for streams | image: index into `NAME_frames` |
| | float32 [B, F, mels] | audio: log-mel frames, or what its encoder reads |
| | int64 [B, L] | text: token ids |
| | float32 [B, L, K] | series: standardised by the training rows' mean and std |
| NAME_frames | uint8 [U, C, S, S] | the distinct images of the batch |
| NAME_features | float32 [U, D] | of distinct inputs; see below |
| NAME_ngrams | int64 [B, G] | of a text: numbers of its n-grams (data/ngrams.py), 0 for padding |
| NAME_ngram_weights | float32 [B, G] | their weights; 0 for padding |
| NAME_lengths | int64 [B] | of audio, a text or a series |
| tabular | float32 [B, N] | numbers, standardised; 0 where unknown |
| tabular_known | bool [B, N] | which of them are known |
| tabular_categories | int64 [B, C] | index of each category; 0 if missing or unseen in training |
| NAME_present | bool [B] | rows that have the input |
| steps | bool [B, T] | streams only: valid steps |
| label | int64 [B] | binary, multiclass: index of the label |
| | int64 [B, T] | steps: IGNORE at steps without a label |
| | float32 [B, C] | multilabel: 1 for each label that applies, else 0 |
| | float32 [B] | regression: standardised by the training labels' mean and std |

In training, NAME_features may replace an input of a frozen pretrained encoder: its features, which
are computed once. NAME is then the index into them, as of an image.

NAME_present exists only if a row of the dataset lacks the input. Such a row has a placeholder
that no network may read: a valid index, or zeros of length 1. `label` exists only if rows have
labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = -100  # the label of a step that is not scored; cross_entropy's default

Batch = dict[str, Tensor]

FRAMES = "_frames"  # the ending of the key that an image's index refers to


def select_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return the batch of some rows, with the padding of the whole batch."""
    index = list(rows)
    frames = [key for key in batch if key.endswith(FRAMES) and key.removesuffix(FRAMES) in batch]
    result = {name: value[index] for name, value in batch.items() if name not in frames}
    for key in frames:
        name = key.removesuffix(FRAMES)
        distinct, result[name] = torch.unique(result[name], return_inverse=True)
        result[key] = batch[key][distinct]
    return result


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move a batch; from pinned memory, the copy runs in the background."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
