"""The encoder of numbers and categories."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..config.schema import ModelConfig
from ..errors import ConfigError


class TabularEncoder(nn.Module):
    """The sum of a vector for each number and category, and a perceptron with one hidden layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features = config.width
        self.columns = TabularVectors(config)
        self.perceptron = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.ReLU(),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.width),
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, D]."""
        return self.perceptron(self.columns(batch).sum(1))


class TabularVectors(nn.Module):
    """A vector for each number and category, as in the FT-Transformer's tokens.

    A number x_i gives w_i·x_i + b_i, or a learned vector if it is missing. A category gives its
    embedding; missing and unseen ones share one. Gorishniy et al., Revisiting Deep Learning Models
    for Tabular Data, 2021.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.numbers, sizes = config.numbers, config.categories
        if not self.numbers and not sizes:
            raise ConfigError(
                "tabular columns need a number or a category: set ModelConfig.numbers or categories"
            )
        shape = (self.numbers, config.width)
        self.weight, self.bias, self.missing = (
            nn.Parameter(torch.empty(shape)) if self.numbers else None for _ in range(3)
        )
        # Every column has its own part of one table, which begins with its missing category.
        starts = list(itertools.accumulate((size + 1 for size in sizes), initial=0))
        self.embed = nn.Embedding(starts[-1], config.width) if sizes else None
        self.starts: Tensor
        self.register_buffer("starts", torch.tensor(starts[:-1]), persistent=False)
        bound = config.width**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, batch: Batch) -> Tensor:
        """Return the vectors, [B, N + C, D]."""
        parts = []
        if self.weight is not None and self.bias is not None and self.missing is not None:
            x = batch["tabular"].to(self.weight.dtype)[..., None]  # [B, N, 1]
            known = batch["tabular_known"][..., None]
            parts.append(torch.where(known, x * self.weight + self.bias, self.missing))
        if self.embed is not None:
            parts.append(self.embed(batch["tabular_categories"] + self.starts))
        return torch.cat(parts, dim=1)
