"""Texts: an encoder of their tokens in order, and a linear readout of the n-grams they contain."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batch import Batch
from ..config.schema import ModelConfig
from .pooling import Pooling
from .views import stepping


class TextEncoder(nn.Module):
    """Embedded tokens, pooled over time, or the embeddings as steps."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features = config.width
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.pool = None if stepping(config) == "text" else Pooling(config)

    def lengths(self, batch: Batch) -> Tensor | None:
        """Return the lengths of the steps; None if the output is a vector."""
        return batch["text_lengths"] if self.pool is None else None

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, D], or the steps [B, L, D]."""
        x = self.embed(batch["text"])
        return x if self.pool is None else self.pool(x, batch["text_lengths"])


_SCALE = 10.0  # a few hundred steps then reach the weights that logistic regression has


class NgramReadout(nn.Module):
    """Logits linear in the hashed n-grams of a text (data/ngrams.py), as logistic regression has.

    A small table has too few texts to learn the meaning of words in order.
    """

    def __init__(self, buckets: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(buckets + 1, outputs))  # the first is padding
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, numbers: Tensor, weights: Tensor) -> Tensor:
        """Return [B, C] for numbers, int64 [B, G], with weights [B, G]; the weight 0 is padding."""
        weights = _SCALE * weights.to(self.weight.dtype)
        if torch.onnx.is_in_onnx_export():  # it would export a loop over the rows
            found = (weights[..., None] * functional.embedding(numbers, self.weight)).sum(1)
        else:
            found = functional.embedding_bag(
                numbers, self.weight, mode="sum", per_sample_weights=weights
            )
        return found + self.bias
