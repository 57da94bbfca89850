"""The model: an encoder a modality, a fusion, a recurrent layer with a readout.

B rows, T steps, D features of an encoder, H of the recurrent layer, C outputs, M modalities.

| fusion | the recurrent layer reads | |
|---|---|---|
| concat | [B, 1, M·D] | one step, so W_hh is never used: the baseline it looks like |
| tokens | [B, M + pairs, D] | each modality, then each pair's product |
| aligned | [B, T, M·D] | streams: the modalities step together |
| late | | one such model a modality; their logits are added |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor, nn

from fastrnn import ReadoutRNN

from .config import ModelConfig
from .data import Batch
from .encoders import ENCODERS, orthogonal


class Fusion(nn.Module):
    """What the recurrent layer reads, made of the encoders' features.

    `forward(features, steps)` takes [B, D] or [B, T, D] a modality and, for streams, the steps
    [B, T] that rows have; it returns [B, steps, `features`].
    """

    features: int


class Concat(Fusion):
    """[B, D] of each modality, side by side, as one step: [B, 1, M·D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features = config.width * len(config.modalities)

    def forward(self, features: Mapping[str, Tensor], steps: Tensor | None) -> Tensor:
        return torch.cat(list(features.values()), dim=-1)[:, None]


class Tokens(Fusion):
    """A step a modality, then a step a pair: [v, t, v⊙t], each projected and normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
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

    def forward(self, features: Mapping[str, Tensor], steps: Tensor | None) -> Tensor:
        tokens = {name: self.project[name](value) for name, value in features.items()}
        products = [self.project[f"{a}_{b}"](tokens[a] * tokens[b]) for a, b in self.pairs]
        return torch.stack([*tokens.values(), *products], dim=1)


class Aligned(Fusion):
    """Every modality, normalised, at every step: [B, T, M·D]. One without steps is repeated."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features = config.width * len(config.modalities)
        self.norm = nn.ModuleDict({name: nn.LayerNorm(config.width) for name in config.modalities})

    def forward(self, features: Mapping[str, Tensor], steps: Tensor | None) -> Tensor:
        if steps is None:
            raise ValueError("aligned fusion reads streams: the batch has no 'steps'")
        parts = []
        for name, value in features.items():
            value = self.norm[name](value)
            if value.dim() == 2:
                value = value[:, None].expand(-1, steps.shape[1], -1)
            parts.append(value)
        return torch.cat(parts, dim=-1)


class Stepwise(nn.Module):
    """ReadoutRNN without W_hh: h_t = tanh(W_xh x_t + b). Answers a row from its steps' mean."""

    def __init__(self, features: int, hidden: int, outputs: int, steps: str) -> None:
        super().__init__()
        self.steps = steps
        self.hidden = nn.Linear(features, hidden)
        self.readout = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, *, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, T, features] -> y [B, T, C] or [B, C], and the mean state [B, hidden]."""
        h = self.hidden(x).tanh()
        if lengths is None:
            mean = h.mean(1)
        else:
            valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            mean = (h * valid[..., None]).sum(1) / lengths[:, None]
        return self.readout(h if self.steps == "all" else mean), mean


FUSIONS: dict[str, Callable[[ModelConfig], Fusion]] = {
    "concat": Concat,
    "tokens": Tokens,
    "aligned": Aligned,
}


class FusionNetwork(nn.Module):
    """Encoders, a fusion, and a recurrent readout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({name: ENCODERS[name](config) for name in config.modalities})
        self.fusion = FUSIONS[config.fusion](config)
        steps = "all" if config.kind == "steps" else "last"
        features = self.fusion.features
        if config.cell == "none":
            self.head: nn.Module = Stepwise(features, config.hidden, config.outputs, steps)
        else:
            self.head = ReadoutRNN(
                features, config.hidden, config.outputs, batch_first=True, steps=steps
            )
            orthogonal(self.head.rnn)

    def forward(self, batch: Batch) -> Tensor:
        """Logits: [B, C], or [B, T, C] where every step is answered."""
        steps = batch.get("steps")
        features = {name: encoder(batch) for name, encoder in self.encoders.items()}
        x = self.fusion(features, steps)
        y, _ = self.head(x, lengths=None if steps is None else steps.sum(1))
        return y


class LateNetwork(nn.Module):
    """One FusionNetwork a modality; their logits are added, so nothing of one meets the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.models = nn.ModuleDict(
            {name: FusionNetwork(single(config, name)) for name in config.modalities}
        )

    def forward(self, batch: Batch) -> Tensor:
        """Logits, as FusionNetwork's."""
        return torch.stack([model(batch) for model in self.models.values()]).sum(0)


def single(config: ModelConfig, modality: str) -> ModelConfig:
    """The same model reading one modality."""
    fusion = "aligned" if config.stream else "tokens"
    return replace(config, modalities=(modality,), fusion=fusion)


def build(config: ModelConfig) -> FusionNetwork | LateNetwork:
    """The model that a configuration describes, freshly initialised."""
    return LateNetwork(config) if config.fusion == "late" else FusionNetwork(config)
