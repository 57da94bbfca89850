"""A batch: a dict of tensors, which the networks read and data.collator builds.

With B rows, T steps, and L tokens or steps of a series, padded:

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
| | float32 [B] | regression: standardised by the training labels' mean and std |

NAME_present exists only if a row of the dataset lacks the modality. Such a row has a placeholder
that no network may read: a valid index, or zeros of length 1. `label` exists only if rows have
labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = -100  # the label of a step that is not scored; cross_entropy's default

Batch = dict[str, Tensor]


def select_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return the batch of some rows, with the padding of the whole batch."""
    index = list(rows)
    result = {name: value[index] for name, value in batch.items() if name != "frames"}
    if "frames" in batch:
        distinct, result["image"] = torch.unique(result["image"], return_inverse=True)
        result["frames"] = batch["frames"][distinct]
    return result


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move a batch; from pinned memory, the copy runs in the background."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
