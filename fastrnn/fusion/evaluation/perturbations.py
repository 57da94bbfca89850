"""Perturb batches to measure how a model reacts; batch.py describes the keys of a batch.

`modality` is the name of an input, such as image or image:front.

Each function returns a new batch and leaves its argument unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..batch import FRAMES, Batch
from ..config.inputs import ENDINGS, modality_of
from ..data.audio import SILENCE

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
        for key in (modality + ending for ending in ENDINGS if ending != FRAMES):
            if key in batch:
                result[key] = batch[key][rows]
    for key, rows in rest.items():
        if key in batch:
            result[key] = batch[key][rows]
    return result


def noise(
    batch: Batch,
    name: str,
    strength: float,
    generator: torch.Generator,
    vocabulary: int = 0,
    categories: Sequence[int] = (),
) -> Batch:
    """Add noise to an input.

    Images, log-mel frames and numeric series get Gaussian noise with `strength` times their
    standard deviation within the batch. In a text, a fraction `strength` of the tokens is replaced
    by random tokens of the vocabulary, and of the n-grams by others of the batch. An image that
    appears in several rows is changed once. Of tabular columns, each number gets noise, and each
    known category becomes a random other one of its column with the probability `strength`;
    `categories` are their numbers.
    """
    if name == "tabular":
        return _noise_on_columns(batch, strength, generator, categories)
    modality = modality_of(name)
    if modality == "text":
        return {**batch, **_replaced(batch, name, strength, generator, vocabulary)}
    key = f"{name}_frames" if modality == "image" else name
    values = batch[key].float()
    spread = _valid(batch, key).float().std(correction=0)
    drawn = torch.randn(values.shape, generator=generator).to(values.device)
    noisy = values + strength * spread * drawn
    if modality == "image":
        noisy = noisy.round().clamp(0, 255)
    return {**batch, key: noisy.to(batch[key].dtype)}


def _replaced(
    batch: Batch, name: str, share: float, generator: torch.Generator, vocabulary: int
) -> Batch:
    """Return the keys of a text in which tokens and n-grams are replaced."""
    tokens = torch.arange(vocabulary)
    found = {}
    for key, others in ((name, tokens), (f"{name}_ngrams", batch.get(f"{name}_ngrams"))):
        if key in batch and others is not None:
            numbers = batch[key]
            hit = torch.rand(numbers.shape, generator=generator) < share
            chosen = torch.randint(others.numel(), numbers.shape, generator=generator)
            random = others.flatten()[chosen.to(others.device)].to(numbers)
            found[key] = torch.where(hit.to(numbers.device), random, numbers)
    return found


def add_silence(batch: Batch, name: str, frames: int, *, before: bool = False) -> Batch:
    """Add frames of digital silence after each clip's end, or before its start."""
    audio, lengths = batch[name], batch[f"{name}_lengths"]
    result = audio.new_full((audio.shape[0], audio.shape[1] + frames, audio.shape[2]), SILENCE)
    if before:
        result[:, frames:] = audio
    else:
        time = torch.arange(audio.shape[1], device=audio.device)
        inside = (time < lengths[:, None])[..., None]
        result[:, : audio.shape[1]] = torch.where(inside, audio, SILENCE)
    return {**batch, name: result, f"{name}_lengths": lengths + frames}


def cut_short(batch: Batch, name: str) -> Batch:
    """Keep the first half of each clip or series."""
    return {**batch, f"{name}_lengths": (batch[f"{name}_lengths"] + 1) // 2}


def _noise_on_columns(
    batch: Batch, strength: float, generator: torch.Generator, categories: Sequence[int]
) -> Batch:
    values, known, index = (batch[f"tabular{each}"] for each in ("", "_known", "_categories"))
    count = known.sum(0).clamp_min(1)
    mean = values.sum(0) / count  # unknown values are 0
    spread = (torch.where(known, values - mean, 0).square().sum(0) / count).sqrt()
    drawn = torch.randn(values.shape, generator=generator).to(values)
    noisy = torch.where(known, values + strength * spread * drawn, 0)
    hit = torch.rand(index.shape, generator=generator) < strength
    step = torch.rand(index.shape, generator=generator)
    sizes = torch.tensor(list(categories), dtype=torch.int64)
    # From 1 to size - 1 places further, around the known categories 1 to size.
    step = 1 + (step * (sizes - 1)).long().clamp(min=0)
    sizes, hit, step = (each.to(index.device) for each in (sizes, hit, step))
    other = (index - 1 + step) % sizes.clamp_min(1) + 1
    hit &= (index > 0) & (sizes > 1)
    changed = torch.where(hit, other, index)
    return {**batch, "tabular": noisy, "tabular_categories": changed}


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
