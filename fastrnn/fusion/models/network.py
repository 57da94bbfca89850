"""The network: one encoder per input, a fusion, and a recurrent layer with a readout.

Symbols: B rows, T steps, H features of the recurrent layer, C outputs. `fusions.py` defines the
input of the recurrent layer. Fusion "late" uses one such network per input and adds the logits.

With `unimodal_heads`, each input also has a linear readout, and a text has one of its n-grams. The
logits are a weighted sum of the fusion's and theirs. Each readout learns from a loss of its own,
and the fusion from the whole: it learns what single inputs do not explain. After training, the
weights of the sum are fitted to the validation rows (training/mixture.py): on small tables, linear
readouts generalise better, and on large ones the fusion.

NAME_present in a batch marks the rows that have an input (see batch.py). The data of other rows
are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..batch import Batch
from ..config.inputs import modality_of, of_modality
from ..config.schema import ModelConfig
from ..errors import ConfigError
from .encoders import BUILT_IN, features_of, lengths_of, make_encoder
from .fusions import FUSIONS, Sequence
from .recurrent import Memoryless, last, mean, readout
from .text import NgramReadout
from .views import view


class FusionNetwork(nn.Module):
    """Encoders, a fusion, and a recurrent readout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _check_encoders(config)
        self.config = config
        # Inputs that share an encoder have the same key.
        keys = dict.fromkeys(config.encoder_of(name) for name in config.modalities)
        self.encoders = nn.ModuleDict({key: make_encoder(config, key) for key in keys})
        sizes = {name: features_of(self.encoder(name)) for name in config.modalities}
        self.fusion = FUSIONS[config.fusion](config, sizes)
        steps = "all" if config.problem_type == "steps" else "last"
        self.head = readout(config.cell, self.fusion.features, config.hidden, config.outputs, steps)
        self.dropout = nn.Dropout(config.dropout)
        self.readouts = self._readouts(sizes) if config.unimodal_heads else nn.ModuleDict()
        self.mixture: Tensor
        self.register_buffer("mixture", equal_mixture(len(self.readouts)))

    def _readouts(self, sizes: Mapping[str, int]) -> nn.ModuleDict:
        """Create a linear readout of each input's features, and of each text's n-grams."""
        config = self.config
        found = nn.ModuleDict({name: nn.Linear(n, config.outputs) for name, n in sizes.items()})
        for name in of_modality(sizes, "text") if config.ngrams else ():
            found[f"{name}_ngrams"] = NgramReadout(config.ngrams, config.outputs)
        return found

    def forward(self, batch: Batch, *, parts: bool = False) -> Tensor:
        """Return the logits: [B, C], or [B, T, C] for steps.

        In training, `modality_dropout` treats some inputs of some rows as missing.

        Args:
            parts: return the parts that `mix` adds up: [1 + R, B, C], or [1 + R, B, T, C].
        """
        batch = drop(batch, self.config, self.training)
        found = self.parts(self.encode(batch), batch)
        return found if parts else mix(self.mixture, found)

    def logits(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the logits for the features that `encode` returned."""
        return mix(self.mixture, self.parts(features, batch))

    def parts(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the logits of the fusion, then of each readout: [1 + R, B, C] or with steps."""
        x, lengths, state = self.sequence(features, batch)
        fused = self.head(x, state, lengths=lengths)[0]
        return torch.cat([fused[None], self.unimodal(features, batch).to(fused.dtype)])

    def unimodal(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the logits of each readout of a single input: [R, B, C] or [R, B, T, C]."""
        per_step = self.config.problem_type == "steps"
        values, steps = features if per_step else self.pooled(features, batch), batch.get("steps")
        rows = batch[self.config.modalities[0]].shape[0]
        times = (steps.shape[1],) if per_step and steps is not None else ()
        found = [next(iter(features.values())).new_zeros(0, rows, *times, self.config.outputs)]
        for name, layer in self.readouts.items():
            if isinstance(layer, NgramReadout):
                text = name.removesuffix("_ngrams")
                weights, present = batch[f"{text}_ngram_weights"], batch.get(f"{text}_present")
                if present is not None:
                    weights = weights * present[:, None]
                logits = layer(batch[name], weights)
            else:
                logits = layer(values[name])
            if times and logits.dim() == 2:
                logits = logits[:, None].expand(-1, *times, -1)
            found.append(logits[None])
        return torch.cat(found)

    def pooled(self, features: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Average the features that `encode` returned over a row's steps: [B, D] of each input."""
        lengths, steps = self._lengths(batch), batch.get("steps")
        return {
            name: mean(each, lengths[name] if steps is None else steps.sum(1))
            if each.dim() == 3
            else each
            for name, each in features.items()
        }

    def encoder(self, name: str) -> nn.Module:
        """Return the encoder of an input."""
        return self.encoders[self.config.encoder_of(name)]

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Return the features of each input: [B, D], or [B, L, D] if it has steps.

        A row that lacks an input gets its learned token, or zeros.
        """
        return {
            name: self.fusion.fill(
                name, self.encoder(name)(view(batch, name)), batch.get(f"{name}_present")
            )
            for name in self.config.modalities
        }

    def sequence(self, features: Mapping[str, Tensor], batch: Batch) -> Sequence:
        """Fuse a batch's features into the input of the recurrent layer.

        Only the lengths, the steps and the presence masks of `batch` are read.
        """
        features = {name: self.dropout(value) for name, value in features.items()}
        return self.fusion(features, self._lengths(batch), batch.get("steps"))

    def _lengths(self, batch: Batch) -> dict[str, Tensor | None]:
        lengths: dict[str, Tensor | None] = {}
        for name in self.config.modalities:
            length = lengths_of(self.encoder(name), view(batch, name))
            present = batch.get(f"{name}_present")
            if length is not None and present is not None:
                length = torch.where(present, length, 1)  # a missing input has one step
            lengths[name] = length
        return lengths

    def states(self, batch: Batch) -> Tensor:
        """Return the recurrent layer's h after each step, [B, T, H]; 0 after a row's end.

        No input is dropped, even in training.
        """
        x, lengths, state = self.sequence(self.encode(batch), batch)
        output, _ = self.head.rnn(x, state, lengths=lengths)
        return output

    def final(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Reduce the states of rows, [B, T, H], to the state [B, H] that the readout reads.

        It is the last state, or the mean for cell "none", which carries nothing between steps.
        """
        pick = mean if isinstance(self.head.rnn, Memoryless) else last
        return pick(states, lengths)

    def answer(self, states: Tensor) -> Tensor:
        """Apply the readout to states: [..., H] -> logits [..., C]."""
        return self.head.readout(states)

    @torch.no_grad()
    def step_names(self, batch: Batch) -> list[str]:
        """Return the names of the T steps. This encodes the batch to find their number."""
        return self.fusion.names(self.encode(batch), self._lengths(batch))


class LateNetwork(nn.Module):
    """One FusionNetwork per input. Their logits are added, so inputs do not interact."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _check_encoders(config)  # each network below knows only its own input
        self.config = config
        if config.modality_dropout:  # dropped here, so each network needs its token
            config = replace(config, missing=config.modalities)
        self.networks = nn.ModuleDict(
            {name: FusionNetwork(single(config, name)) for name in config.modalities}
        )
        self.mixture: Tensor
        self.register_buffer("mixture", equal_mixture(0))

    def encoder(self, name: str) -> nn.Module:
        """Return the encoder of an input."""
        network = self.networks[name]
        assert isinstance(network, FusionNetwork)
        return network.encoder(name)

    def forward(self, batch: Batch, *, parts: bool = False) -> Tensor:
        """Return the logits, as FusionNetwork does; their sum is the only one of the parts."""
        batch = drop(batch, self.config, self.training)
        logits = torch.stack([network(batch) for network in self.networks.values()])
        return logits.sum(0, keepdim=parts)


def equal_mixture(readouts: int) -> Tensor:
    """Return the weights of the fusion's logits, 1, and of each readout's, 1 / R: [1 + R]."""
    return torch.tensor([1.0] + [1 / readouts] * readouts if readouts else [1.0])


def mix(mixture: Tensor, parts: Tensor) -> Tensor:
    """Return the weighted sum of parts, [1 + R, ...]."""
    return torch.tensordot(mixture.to(parts), parts, dims=1)


def _check_encoders(config: ModelConfig) -> None:
    named = [name for name, _ in config.encoders]
    keys = {config.encoder_of(name) for name in config.modalities}
    known = keys | {modality_of(name) for name in config.modalities}
    strangers = sorted(set(named) - known)
    if strangers:
        raise ConfigError(
            f"encoders are given for modalities that are not read: {', '.join(strangers)}; "
            f"remove them, or name one of {', '.join(sorted(known))}"
        )
    for each in named:
        if named.count(each) > 1:
            raise ConfigError(f"encoders name {each} more than once; give it one encoder")


def drop(batch: Batch, config: ModelConfig, training: bool) -> Batch:
    """Apply modality dropout: in training, mark whole inputs of some rows as missing.

    Each input of a row is dropped with probability `modality_dropout`. A row that would lose all
    inputs keeps all.
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


def single(config: ModelConfig, name: str) -> ModelConfig:
    """Return the configuration of the same network for a single input."""
    return replace(
        config,
        modalities=(name,),
        fusion="aligned" if config.stream else "tokens",
        missing=tuple(each for each in config.missing if each == name),
        modality_dropout=0.0,
        encoders=tuple(each for each in config.encoders if each[0] in (name, modality_of(name))),
        pretrained=tuple(
            each for each in config.pretrained if each[0] in (name, modality_of(name))
        ),
        share=(),
    )


def has_custom(config: ModelConfig) -> bool:
    """Whether an encoder is a custom one, which may not support the meta device."""
    names = {key: name for key, name in config.encoders if key not in dict(config.pretrained)}
    return not BUILT_IN.issuperset(names.values())


def blueprint(config: ModelConfig) -> FusionNetwork | LateNetwork:
    """Build a network on the meta device: weights have names and shapes but no memory.

    Raises:
        ConfigError: as `build`.
    """
    with without_memory():
        return build(config)


@contextmanager
def without_memory() -> Iterator[None]:
    """Create modules on the meta device, without initial values."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Skip `nn.init.normal_`: on meta tensors, torch imports its compiler, which takes seconds."""

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
    """Build and initialise the network that a configuration describes.

    Raises:
        ConfigError: an encoder is unknown, or the fusion or an encoder does not fit the
            configuration.
    """
    return LateNetwork(config) if config.fusion == "late" else FusionNetwork(config)
