"""The network: an encoder a modality, a fusion, a recurrent layer with a readout.

B rows, T steps, H features of the recurrent layer, C outputs. `fusions.py` says what the layer
reads; with fusion "late" there is one such network a modality, and their logits are added.

A batch says with NAME_present which rows have a modality (see data.py); of those that lack it
nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .cells import Memoryless, last, mean, readout
from .config import ModelConfig
from .data import Batch
from .encoders import features_of, lengths_of, make_encoder
from .errors import ConfigError
from .fusions import FUSIONS, Sequence


class FusionNetwork(nn.Module):
    """Encoders, a fusion, and a recurrent readout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _check_encoders(config)
        self.config = config
        self.encoders = nn.ModuleDict(
            {name: make_encoder(config, name) for name in config.modalities}
        )
        sizes = {name: features_of(encoder) for name, encoder in self.encoders.items()}
        self.fusion = FUSIONS[config.fusion](config, sizes)
        steps = "all" if config.kind == "steps" else "last"
        self.head = readout(config.cell, self.fusion.features, config.hidden, config.outputs, steps)

    def forward(self, batch: Batch) -> Tensor:
        """Logits: [B, C], or [B, T, C] where every step is answered.

        In training, modalities of some rows are taken for missing, as `modality_dropout` says.
        """
        batch = drop(batch, self.config, self.training)
        x, lengths, h0 = self.sequence(self.encode(batch), batch)
        y, _ = self.head(x, h0, lengths=lengths)
        return y

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Each modality's features: [B, D], or [B, L, D] where it has steps.

        A row that lacks the modality has its learned token instead, or zeros.
        """
        return {
            name: self.fusion.fill(name, encoder(batch), batch.get(f"{name}_present"))
            for name, encoder in self.encoders.items()
        }

    def sequence(self, features: Mapping[str, Tensor], batch: Batch) -> Sequence:
        """What the recurrent layer reads, of features and the batch that they are of.

        Of the batch, only the lengths, the steps and what is present are read.
        """
        return self.fusion(features, self._lengths(batch), batch.get("steps"))

    def _lengths(self, batch: Batch) -> dict[str, Tensor | None]:
        lengths: dict[str, Tensor | None] = {}
        for name, encoder in self.encoders.items():
            length, present = lengths_of(encoder, batch), batch.get(f"{name}_present")
            if length is not None and present is not None:
                length = torch.where(present, length, 1)  # a modality that is missing is one step
            lengths[name] = length
        return lengths

    def states(self, batch: Batch) -> Tensor:
        """The recurrent layer's state after each step, [B, T, H]; 0 beyond a row's end.

        Nothing is dropped, in training either.
        """
        x, lengths, h0 = self.sequence(self.encode(batch), batch)
        output, _ = self.head.rnn(x, h0, lengths=lengths)
        return output

    def final(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The state [B, H] that answers a row, of its states [B, T, H]: the last, or the mean
        where nothing is carried from step to step (cell none)."""
        pick = mean if isinstance(self.head.rnn, Memoryless) else last
        return pick(states, lengths)

    def answer(self, states: Tensor) -> Tensor:
        """The readout of any states: [..., H] -> logits [..., C]."""
        return self.head.readout(states)

    @torch.no_grad()
    def step_names(self, batch: Batch) -> list[str]:
        """What each of the T steps is called; it encodes the batch to see how many there are."""
        return self.fusion.names(self.encode(batch), self._lengths(batch))


class LateNetwork(nn.Module):
    """One FusionNetwork a modality; their logits are added, so nothing of one meets the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _check_encoders(config)  # each network below sees its own alone
        self.config = config
        if config.modality_dropout:  # it happens here, so each network needs its token
            config = replace(config, missing=config.modalities)
        self.networks = nn.ModuleDict(
            {name: FusionNetwork(single(config, name)) for name in config.modalities}
        )

    def forward(self, batch: Batch) -> Tensor:
        """Logits, as FusionNetwork's."""
        batch = drop(batch, self.config, self.training)
        return torch.stack([network(batch) for network in self.networks.values()]).sum(0)


def _check_encoders(config: ModelConfig) -> None:
    named = [modality for modality, _ in config.encoders]
    strangers = sorted(set(named) - set(config.modalities))
    if strangers:
        raise ConfigError(f"encoders are given for what is not read: {', '.join(strangers)}")
    for each in named:
        if named.count(each) > 1:
            raise ConfigError(f"encoders name {each} more than once; give a modality one encoder")


def drop(batch: Batch, config: ModelConfig, training: bool) -> Batch:
    """The batch, in training with whole modalities of some rows marked as missing.

    Each goes with the probability `modality_dropout`; a row that would keep none loses none.
    """
    if not (training and config.modality_dropout):
        return batch
    rows = len(batch[config.modalities[0]])
    like = batch[config.modalities[0]]
    everywhere = torch.ones(rows, dtype=torch.bool, device=like.device)
    present = torch.stack(
        [batch.get(f"{name}_present", everywhere) for name in config.modalities]
    )  # [M, B]
    keep = torch.rand(present.shape, device=like.device) >= config.modality_dropout
    kept = present & keep
    kept = torch.where(kept.any(0), kept, present)
    names = [f"{name}_present" for name in config.modalities]
    return batch | dict(zip(names, kept, strict=True))


def single(config: ModelConfig, modality: str) -> ModelConfig:
    """The same network reading one modality."""
    return replace(
        config,
        modalities=(modality,),
        fusion="aligned" if config.stream else "tokens",
        missing=tuple(name for name in config.missing if name == modality),
        modality_dropout=0.0,
        encoders=tuple(each for each in config.encoders if each[0] == modality),
    )


def blueprint(config: ModelConfig) -> FusionNetwork | LateNetwork:
    """`build` without memory for the weights, whose names and shapes are there.

    Raises:
        ConfigError: as `build`.
    """
    with torch.device("meta"), _Undrawn():
        return build(config)


class _Undrawn(TorchFunctionMode):
    """Leaves out `nn.init.normal_`, for which torch would import its compiler: seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


def build(config: ModelConfig) -> FusionNetwork | LateNetwork:
    """The network that a configuration describes, freshly initialised.

    Raises:
        ConfigError: an encoder is not known, or the fusion or an encoder cannot be made so.
    """
    return LateNetwork(config) if config.fusion == "late" else FusionNetwork(config)
