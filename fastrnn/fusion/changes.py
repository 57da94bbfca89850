"""Batches changed on purpose, to see what a model makes of it: see data.py for their keys.

Each function returns a new batch and leaves the old one as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .data import Batch

Change = Callable[[Batch], Batch]

STRENGTHS = (0.25, 0.5, 1.0)


def remove(batch: Batch, modality: str) -> Batch:
    """No row has this modality any more."""
    rows = len(batch[modality])
    present = torch.zeros(rows, dtype=torch.bool, device=batch[modality].device)
    return {**batch, f"{modality}_present": present}


def donate(batch: Batch, modality: str, donors: Tensor) -> Batch:
    """Each row gets this modality from another row of the batch.

    Args:
        donors: int64 [B], the row to take from. Streams: it should have as many steps.
    """
    return pick(batch, {modality: donors}, {})


def pick(batch: Batch, chosen: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> Batch:
    """Rows put together anew: of each modality those that `chosen` names.

    Args:
        chosen: modality -> int64 [N], rows of the batch.
        rest: other keys (steps, label) -> int64 [N]; without one, a key stays as it is.
    """
    result = dict(batch)
    for modality, rows in chosen.items():
        for key in (modality, f"{modality}_lengths", f"{modality}_present"):
            if key in batch:
                result[key] = batch[key][rows]
    for key, rows in rest.items():
        if key in batch:
            result[key] = batch[key][rows]
    return result


def noise(
    batch: Batch, modality: str, strength: float, generator: torch.Generator, vocabulary: int = 0
) -> Batch:
    """The modality made worse.

    Images, log-mel frames and numeric series get Gaussian noise, `strength` times the deviation
    that they have within the batch; of a text the share `strength` of its tokens is replaced by
    any of the vocabulary's. An image that appears in several rows is changed once.
    """
    if modality == "text":
        tokens = batch["text"]
        hit = torch.rand(tokens.shape, generator=generator) < strength
        random = torch.randint(vocabulary, tokens.shape, generator=generator)
        return {**batch, "text": torch.where(hit.to(tokens.device), random.to(tokens), tokens)}
    key = "frames" if modality == "image" else modality
    values = batch[key].float()
    spread = _valid(batch, key).float().std(correction=0)
    drawn = torch.randn(values.shape, generator=generator).to(values.device)
    noisy = values + strength * spread * drawn
    if modality == "image":
        noisy = noisy.round().clamp(0, 255)
    return {**batch, key: noisy.to(batch[key].dtype)}


def _valid(batch: Batch, key: str) -> Tensor:
    """A modality's numbers without padding and placeholders."""
    values = batch[key]
    if f"{key}_lengths" not in batch:
        return values
    time = torch.arange(values.shape[1], device=values.device)
    valid = time < batch[f"{key}_lengths"][:, None]
    if f"{key}_present" in batch:
        valid = valid & batch[f"{key}_present"][:, None]
    return values[valid]
