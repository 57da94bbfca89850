"""The encoder of texts: their tokens in order, and the n-grams that they contain."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batch import Batch
from ..config.schema import ModelConfig
from .pooling import Pooling
from .views import stepping


class TextEncoder(nn.Module):
    """Embedded tokens, pooled, plus the vector of the n-grams; or the embeddings as steps.

    The n-grams carry a small table, whose texts are too few to learn the meaning of words in order.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features = config.width
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.pool = None if stepping(config) == "text" else Pooling(config)
        self.ngrams = NgramVector(config.ngrams, config.width) if config.ngrams else None

    def lengths(self, batch: Batch) -> Tensor | None:
        """Return the lengths of the steps; None if the output is a vector."""
        return batch["text_lengths"] if self.pool is None else None

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, D], or the steps [B, L, D]."""
        x = self.embed(batch["text"])
        if self.pool is not None:
            x = self.pool(x, batch["text_lengths"])
        if self.ngrams is None:
            return x
        vector = self.ngrams(batch["text_ngrams"], batch["text_ngram_weights"])
        return x + (vector if self.pool is not None else vector[:, None])


class NgramVector(nn.Module):
    """The weighted sum of a vector for each hashed n-gram (data/ngrams.py); 0 is padding."""

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(buckets + 1, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, numbers: Tensor, weights: Tensor) -> Tensor:
        """Return [B, D] for numbers, int64 [B, G], with weights [B, G]."""
        weights = weights.to(self.weight.dtype)
        if torch.onnx.is_in_onnx_export():  # it would make a loop over the rows
            return (weights[..., None] * functional.embedding(numbers, self.weight)).sum(1)
        return functional.embedding_bag(
            numbers, self.weight, mode="sum", per_sample_weights=weights
        )
