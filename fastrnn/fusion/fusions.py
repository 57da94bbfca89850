"""Fusions: from the encoders' features to the sequence that the recurrent layer reads.

B rows, T steps, D features (`width`), H of the recurrent layer, M modalities.

| fusion | the recurrent layer reads | |
|---|---|---|
| concat | [B, 1, ΣD] | one step, so W_hh is never used: the article's own |
| tokens | [B, M + pairs, D] | each modality, then each pair's product |
| parallel | [B, L, (2M - 1)·D] | at each step of one modality also the others, and their products |
| init | [B, L, D] | the steps of one modality; the others are the state it starts from |
| aligned | [B, T, M·D] | streams: the modalities step together |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .cells import mean
from .config import ModelConfig
from .encoders import stepping
from .errors import ConfigError

Lengths = Mapping[str, Tensor | None]


class Sequence(NamedTuple):
    """What the recurrent layer reads."""

    x: Tensor  #: [B, T, features]
    lengths: Tensor | None  #: int [B]; None: every row has all T steps
    h0: Tensor | None  #: [1, B, H]; None: zeros


class Fusion(nn.Module):
    """The base of all: it also holds what stands in for a modality that a row lacks.

    `forward(features, lengths, steps)` takes [B, D] or [B, L, D] a modality, the lengths int [B]
    of those that have steps (None: all L), and for streams the steps bool [B, T] that rows have.
    `names(features, lengths)` names the steps of the sequence.
    """

    features: int

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        """`sizes`: the features of each encoder."""
        super().__init__()
        learned = config.modalities if config.modality_dropout else config.missing
        self.missing = nn.ParameterDict(
            {
                # small, yet not zero: LayerNorm's gradient is steep there
                name: nn.Parameter(0.1 * torch.randn(size))
                for name, size in sizes.items()
                if name in learned
            }
        )

    def fill(self, name: str, value: Tensor, present: Tensor | None) -> Tensor:
        """The features of a modality, [B, ..., D], its token (or zeros) where `present` is False.

        `present` is bool [B], or None where every row has it.
        """
        if name in self.missing:
            if present is None:  # the token stays in the graph: processes wait for its gradient
                present = value.new_ones(value.shape[0], dtype=torch.bool)
            token = self.missing[name].to(value.dtype)
        elif present is None:
            return value
        else:
            token = value.new_zeros(())
        return torch.where(present.view(-1, *[1] * (value.dim() - 1)), value, token)

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        raise NotImplementedError

    def names(self, features: Mapping[str, Tensor], lengths: Lengths) -> list[str]:
        raise NotImplementedError


class Concat(Fusion):
    """The features of each modality, side by side, as one step; where one has steps, their mean."""

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
    """A step a modality, then a step a pair: [v, t, v⊙t], each projected and normalised.

    A modality whose rows all have S steps, such as an image's grid, gives S steps, and as many in
    each product; two such meet as the first's steps with the second's mean. One whose rows differ
    in length gives its mean.
    """

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.features = config.width
        self.pairs = list(combinations(config.modalities, 2))
        names = [*config.modalities, *("_".join(pair) for pair in self.pairs)]
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
            products.append(self.project[f"{a}_{b}"](first * second))
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
        """Each modality's features [B, D], or [B, S, D] where all rows have S steps."""
        return {
            name: value if lengths[name] is None else _vector(value, lengths[name])
            for name, value in features.items()
        }


class Stepping(Fusion):
    """The base of the fusions that follow the steps of one modality."""

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.leader = stepping(config)
        self.others = [name for name in config.modalities if name != self.leader]
        self.norm = nn.ModuleDict({name: nn.LayerNorm(config.width) for name in config.modalities})

    def split(
        self, features: Mapping[str, Tensor], lengths: Lengths
    ) -> tuple[Tensor, list[Tensor]]:
        """The leader's steps [B, L, D], and a vector [B, D] of each other; all normalised."""
        steps = features[self.leader]
        if steps.dim() != 3:
            raise ConfigError(
                f"the encoder of {self.leader} gives one vector a row, and this fusion follows its "
                "steps: let it return [B, L, D], or choose fusion tokens"
            )
        others = [self.norm[name](_vector(features[name], lengths[name])) for name in self.others]
        return self.norm[self.leader](steps), others

    def names(self, features: Mapping[str, Tensor], lengths: Lengths) -> list[str]:
        return step_names(self.leader, features[self.leader])


class Parallel(Stepping):
    """At every step e_t of one modality, each other v beside it and times it: [e_t, v, e_t⊙v]."""

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
    """The steps of one modality, started from the others: h0 = tanh(W v + b)."""

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        if not self.others:
            raise ConfigError("init starts one modality from the others: it needs two modalities")
        self.features = config.width
        self.start = nn.Linear(config.width * len(self.others), config.hidden)

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        e, others = self.split(features, lengths)
        h0 = self.start(torch.cat(others, dim=-1)).tanh()
        return Sequence(e, lengths[self.leader], h0[None])


class Aligned(Fusion):
    """Every modality, normalised, at every step: [B, T, M·D]. One without steps is repeated."""

    def __init__(self, config: ModelConfig, sizes: Mapping[str, int]) -> None:
        super().__init__(config, sizes)
        self.features = config.width * len(config.modalities)
        self.norm = nn.ModuleDict({name: nn.LayerNorm(config.width) for name in config.modalities})

    def forward(
        self, features: Mapping[str, Tensor], lengths: Lengths, steps: Tensor | None
    ) -> Sequence:
        if steps is None:
            raise ValueError("aligned fusion reads streams: the batch has no 'steps'")
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
    """What a modality's steps are called; an image's by row and column where it is a square."""
    if value.dim() == 2:
        return [name]
    count = value.shape[1]
    side = round(count**0.5)
    if name == "image" and side**2 == count:
        return [f"{name} {step // side + 1},{step % side + 1}" for step in range(count)]
    return [f"{name} {step + 1}" for step in range(count)]


def _vector(value: Tensor, lengths: Tensor | None) -> Tensor:
    return mean(value, lengths) if value.dim() == 3 else value


FUSIONS: dict[str, Callable[[ModelConfig, Mapping[str, int]], Fusion]] = {
    "concat": Concat,
    "tokens": Tokens,
    "parallel": Parallel,
    "init": Init,
    "aligned": Aligned,
}
