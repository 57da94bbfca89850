"""Fusion modules: turn the encoders' features into the input sequence of the recurrent layer.

Symbols: B rows, T steps, D features (`width`), H features of the recurrent layer, M inputs.

| fusion | input of the recurrent layer | |
|---|---|---|
| concat | [B, 1, ΣD] | a single step, so W_hh is never used; the article's method |
| tokens | [B, M + pairs, D] | each modality, then the product of each pair |
| parallel | [B, L, (2M - 1)·D] | the steps of one modality, each with the others and the products |
| init | [B, L, D] | the steps of one modality; the others give the initial state |
| aligned | [B, T, M·D] | streams: all modalities advance together |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config.inputs import modality_of
from ..config.schema import ModelConfig
from ..errors import ConfigError
from .recurrent import State, initial, mean
from .views import stepping

Lengths = Mapping[str, Tensor | None]


class Sequence(NamedTuple):
    """The input of the recurrent layer."""

    x: Tensor  #: [B, T, features]
    lengths: Tensor | None  #: int [B]; None if every row has all T steps
    state: State | None  #: the initial state, see recurrent.py; None for zeros


class Fusion(nn.Module, ABC):
    """Base class of the fusions. It also holds the learned tokens of missing modalities.

    `forward(features, lengths, steps)` takes the features of each modality, [B, D] or [B, L, D].
    `lengths` are int [B] for a modality with steps, or None if all rows have L steps. For streams,
    `steps` is bool [B, T] and marks the steps that each row has. `names(features, lengths)`
    returns the names of the sequence's steps.
    """

    features: int

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        """`sizes` gives the number of features of each encoder."""
        super().__init__()
        learned = config.modalities if config.modality_dropout else config.missing
        self.missing = nn.ParameterDict(
            {
                # small, but not zero: at zero, LayerNorm's gradient is steep
                name: nn.Parameter(0.1 * torch.randn(size))
                for name, size in sizes.items()
                if name in learned
            }
        )

    def fill(self, name: str, value: Tensor, present: Tensor | None) -> Tensor:
        """Replace a modality's features, [B, ..., D], by its token (or zeros) in rows without it.

        `present` is bool [B], or None if every row has the modality.
        """
        if name in self.missing:
            # The token stays in the graph: the other processes wait for its gradient.
            if present is None:
                present = value.new_ones(value.shape[0], dtype=torch.bool)
            token = self.missing[name].to(value.dtype)
        elif present is None:
            return value
        else:
            token = value.new_zeros(())
        return torch.where(present.view(-1, *[1] * (value.dim() - 1)), value, token)

    @abstractmethod
    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        """Return the input of the recurrent layer."""

    @abstractmethod
    def names(self, features: Mapping[str, Tensor], lengths: Lengths) -> list[str]:
        """Return the names of the sequence's steps."""


class Concat(Fusion):
    """Concatenate the features of all modalities into one step.

    A modality with several steps contributes their mean.
    """

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.features = sum(sizes.values())
        self.norm = nn.ModuleDict(
            {name: nn.LayerNorm(size) for name, size in sizes.items() if config.normalise}
        )

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        parts = []
        for name, value in features.items():
            value = _vector(value, lengths[name])
            parts.append(self.norm[name](value) if name in self.norm else value)
        return Sequence(torch.cat(parts, dim=-1)[:, None], None, None)

    def names(self, features: Mapping[str, Tensor], lengths: Lengths) -> list[str]:
        return [" + ".join(features)]


class Tokens(Fusion):
    """One step per modality, then one per pair: [v, t, v⊙t], each projected and normalised.

    A modality with S steps in every row, such as an image's grid, gives S steps, and S steps in
    each of its products. The product of two such modalities pairs the first's steps with the mean
    of the second. A modality with rows of different lengths gives its mean.
    """

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.features = config.width
        self.pairs = list(combinations(config.modalities, 2))
        names = [*config.modalities, *(_product(*pair) for pair in self.pairs)]
        self.project = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(config.width, config.width), nn.LayerNorm(config.width)
                )
                for name in names
            }
        )

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        tokens = {}
        for name, value in self.tokens(features, lengths).items():
            tokens[name] = self.project[name](value if value.dim() == 3 else value[:, None])
        products = []
        for a, b in self.pairs:
            first, second = tokens[a], tokens[b]
            if first.shape[1] > 1 and second.shape[1] > 1:
                second = second.mean(1, keepdim=True)
            products.append(self.project[_product(a, b)](first * second))
        return Sequence(torch.cat([*tokens.values(), *products], dim=1), None, None)

    def names(self, features: Mapping[str, Tensor], lengths: Lengths) -> list[str]:
        steps = {
            name: step_names(name, value) for name, value in self.tokens(features, lengths).items()
        }
        products = []
        for a, b in self.pairs:
            right = steps[b] if len(steps[a]) == 1 else [b]
            products += [f"{one} × {other}" for one in steps[a] for other in right]
        return [name for each in steps.values() for name in each] + products

    def tokens(self, features: Mapping[str, Tensor], lengths: Lengths) -> dict[str, Tensor]:
        """Return each modality's features: [B, D], or [B, S, D] if all rows have S steps."""
        return {
            name: value if lengths[name] is None else _vector(value, lengths[name])
            for name, value in features.items()
        }


class Stepping(Fusion):
    """Base class of the fusions that follow the steps of one modality."""

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.leader = stepping(config)
        self.others = [name for name in config.modalities if name != self.leader]
        self.norm = nn.ModuleDict({name: nn.LayerNorm(config.width) for name in config.modalities})

    def split(
        self, features: Mapping[str, Tensor], lengths: Lengths
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the leader's steps [B, L, D] and a vector [B, D] of each other, all normalised."""
        steps = features[self.leader]
        if steps.dim() != 3:
            raise ConfigError(
                f"the encoder of {self.leader} returns one vector per row, but this fusion needs "
                "its steps; let it return [B, L, D], or choose fusion tokens"
            )
        others = [self.norm[name](_vector(features[name], lengths[name])) for name in self.others]
        return self.norm[self.leader](steps), others

    def names(self, features: Mapping[str, Tensor], lengths: Lengths) -> list[str]:
        return step_names(self.leader, features[self.leader])


class Parallel(Stepping):
    """Join every step e_t of one modality with each other modality v: [e_t, v, e_t⊙v]."""

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.features = config.width * (1 + 2 * len(self.others))

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        e, others = self.split(features, lengths)
        parts = [e]
        for value in others:
            parts += [value[:, None].expand_as(e), value[:, None] * e]
        return Sequence(torch.cat(parts, dim=-1), lengths[self.leader], None)


class Init(Stepping):
    """The steps of one modality, with an initial state from the others: h0 = tanh(W v + b).

    An LSTM's c0 is 0.
    """

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        if not self.others:
            raise ConfigError(
                "fusion init needs at least two modalities: the others give the initial state"
            )
        self.features = config.width
        self.cell = config.cell
        self.start = nn.Linear(config.width * len(self.others), config.hidden)

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        e, others = self.split(features, lengths)
        h0 = self.start(torch.cat(others, dim=-1)).tanh()
        return Sequence(e, lengths[self.leader], initial(self.cell, h0[None]))


class Aligned(Fusion):
    """Concatenate all modalities, normalised, at every step: [B, T, M·D].

    A modality without steps is repeated at every step.
    """

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.features = config.width * len(config.modalities)
        self.norm = nn.ModuleDict({name: nn.LayerNorm(config.width) for name in config.modalities})

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        if steps is None:
            raise ValueError("fusion aligned needs streams, but the batch has no 'steps'")
        parts = []
        for name, value in features.items():
            value = self.norm[name](value)
            if value.dim() == 2:
                value = value[:, None].expand(-1, steps.shape[1], -1)
            parts.append(value)
        return Sequence(torch.cat(parts, dim=-1), steps.sum(1), None)

    def names(self, features: Mapping[str, Tensor], lengths: Lengths) -> list[str]:
        count = max(value.shape[1] if value.dim() == 3 else 1 for value in features.values())
        return [f"step {number}" for number in range(1, count + 1)]


def step_names(name: str, value: Tensor) -> list[str]:
    """Return the names of a modality's steps. A square image grid is named by row and column."""
    if value.dim() == 2:
        return [name]
    count = value.shape[1]
    side = round(count**0.5)
    if modality_of(name) == "image" and side**2 == count:
        return [f"{name} {step // side + 1},{step % side + 1}" for step in range(count)]
    return [f"{name} {step + 1}" for step in range(count)]


def _product(a: str, b: str) -> str:
    """Name the product of two inputs. Names of columns contain "_", but not "+"."""
    return f"{a}+{b}" if ":" in a + b else f"{a}_{b}"


def _vector(value: Tensor, lengths: Tensor | None) -> Tensor:
    return mean(value, lengths) if value.dim() == 3 else value


FUSIONS: dict[str, Callable[[ModelConfig, Mapping[str, int]], Fusion]] = {
    "concat": Concat,
    "tokens": Tokens,
    "parallel": Parallel,
    "init": Init,
    "aligned": Aligned,
}
