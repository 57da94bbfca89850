"""Perturb batches to measure how a model reacts; batch.py describes the keys of a batch.

`modality` is the name of an input, such as image or image:front.

Each function returns a new batch and leaves its argument unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..batch import Batch
from ..config.inputs import modality_of

STRENGTHS = (0.25, 0.5, 1.0)


def remove(batch: Batch, modality: str) -> Batch:
    """Mark an input as missing in every row."""
    rows = len(batch[modality])
    present = torch.zeros(rows, dtype=torch.bool, device=batch[modality].device)
    return {**batch, f"{modality}_present": present}


def donate(batch: Batch, modality: str, donors: Tensor) -> Batch:
    """Replace an input of each row by that of another row of the batch.

    Args:
        donors: int64 [B], the row to copy from. For streams it should have as many steps.
    """
    return pick(batch, {modality: donors}, {})


def pick(batch: Batch, chosen: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> Batch:
    """Recombine rows: select each input from its own rows of the batch.

    Args:
        chosen: input -> int64 [N], the rows to copy from.
        rest: other keys (steps, label) -> int64 [N]; a key that is not listed is unchanged.
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
    batch: Batch, name: str, strength: float, generator: torch.Generator, vocabulary: int = 0
) -> Batch:
    """Add noise to an input.

    Images, log-mel frames and numeric series get Gaussian noise with `strength` times their
    standard deviation within the batch. In a text, a fraction `strength` of the tokens is replaced
    by random tokens of the vocabulary. An image that appears in several rows is changed once.
    """
    modality = modality_of(name)
    if modality == "text":
        tokens = batch[name]
        hit = torch.rand(tokens.shape, generator=generator) < strength
        random = torch.randint(vocabulary, tokens.shape, generator=generator)
        return {**batch, name: torch.where(hit.to(tokens.device), random.to(tokens), tokens)}
    key = f"{name}_frames" if modality == "image" else name
    values = batch[key].float()
    spread = _valid(batch, key).float().std(correction=0)
    drawn = torch.randn(values.shape, generator=generator).to(values.device)
    noisy = values + strength * spread * drawn
    if modality == "image":
        noisy = noisy.round().clamp(0, 255)
    return {**batch, key: noisy.to(batch[key].dtype)}


def _valid(batch: Batch, key: str) -> Tensor:
    """Return the values of an input without padding and placeholders."""
    values = batch[key]
    if f"{key}_lengths" not in batch:
        return values
    time = torch.arange(values.shape[1], device=values.device)
    valid = time < batch[f"{key}_lengths"][:, None]
    if f"{key}_present" in batch:
        valid = valid & batch[f"{key}_present"][:, None]
    return values[valid]
