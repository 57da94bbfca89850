"""Encoders: from a batch (see data.py) to a modality's features.

B rows, T steps, D features. An encoder is any module with

    features: int                       # D
    forward(batch) -> Tensor            # [B, D]; or [B, L, D], steps; for streams also [B, T, D]
    lengths(batch) -> Tensor | None     # of its steps: int [B], at least 1; None, or no such
                                        # method: every row has them all

`register_encoder` gives one a name, and `ModelConfig.encoders` puts it in a built-in one's place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .cells import recurrent
from .config import ModelConfig
from .data import Batch
from .errors import ConfigError
from .words import plural

Factory = Callable[[ModelConfig], nn.Module]


class ImageEncoder(nn.Module):
    """Stages of convolution, max pooling and relu; a grid of their features; a linear map.

    Each distinct image of a batch is encoded once, and its features go wherever it appears.
    With `image_steps` each place of the grid is a step, row by row. With `grid` 0 nothing is
    averaged: a vector is then all features as they are, from convolutions without padding.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.stream and config.image_steps:
            raise ConfigError("image_steps are of one image a row; these rows are sequences")
        stages: list[nn.Module] = []
        channels, side = config.image_channels, config.image_size
        padding = 1 if config.grid else 0
        for features in config.conv:
            # relu after the pool: the same values as before it, from a quarter of the work
            stages += [nn.Conv2d(channels, features, 3, padding=padding), nn.MaxPool2d(2)]
            stages.append(nn.ReLU())
            channels, side = features, (side - 2 + 2 * padding) // 2
        if side < 1:
            raise ConfigError(
                f"images of {plural(config.image_size, 'pixel')} are too small for "
                f"{plural(len(config.conv), 'stage')} that each halve them: make "
                "image_size larger or conv shorter"
            )
        if config.grid:
            stages.append(nn.AdaptiveAvgPool2d(config.grid))
        self.steps = config.image_steps
        self.stages = nn.Sequential(*stages)
        # Measured on a CPU, convolution and pooling run about twice as fast in this layout.
        self.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = channels if self.steps else channels * (config.grid or side) ** 2
        flat = not (config.grid or self.steps)
        self.features = inputs if flat else config.width
        self.project = nn.Identity() if flat else nn.Linear(inputs, config.width)

    def forward(self, batch: Batch) -> Tensor:
        weight = next(self.parameters())
        pixels = batch["frames"].to(weight.dtype) / 127.5 - 1  # [U, C, S, S], ±1
        maps = self.stages(pixels.contiguous(memory_format=torch.channels_last))
        # [U, g², C] for steps, else [U, C·g²]
        features = self.project(maps.flatten(2).transpose(1, 2) if self.steps else maps.flatten(1))
        return features[batch["image"]]  # [U, ...] -> [B, ...] or, for streams, [B, T, D]


class TextEncoder(nn.Module):
    """Embedding, recurrent layer, its state after the last token; or the embeddings as steps."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features = config.width
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.rnn = _summary(config, "text")

    def lengths(self, batch: Batch) -> Tensor | None:
        """Of the steps, where it gives them."""
        return batch["text_lengths"] if self.rnn is None else None

    def forward(self, batch: Batch) -> Tensor:
        x = self.embed(batch["text"])
        if self.rnn is None:
            return x  # [B, L, D]
        _, state = self.rnn(x, lengths=batch["text_lengths"])
        return state[-1]  # [B, D]


class FrameEncoder(nn.Module):
    """Strided convolutions over a modality's frames; then a recurrent layer's state, or steps."""

    def __init__(self, config: ModelConfig, modality: str, channels: int) -> None:
        super().__init__()
        self.modality = modality
        self.features = config.width
        self.stream = config.stream
        self.strides = config.strides
        self.convolutions = nn.ModuleList()
        for stride in config.strides:
            self.convolutions.append(nn.Conv1d(channels, config.width, 3, stride, padding=1))
            channels = config.width
        if not config.strides:
            raise ConfigError(f"{modality} needs a convolution: give strides, (1,) for no stride")
        self.rnn = None if config.stream else _summary(config, modality)

    def lengths(self, batch: Batch) -> Tensor | None:
        """Of the steps, where it gives them."""
        if self.stream or self.rnn is not None:
            return None
        lengths = batch[f"{self.modality}_lengths"]
        for stride in self.strides:
            lengths = (lengths + stride - 1) // stride
        return lengths

    def forward(self, batch: Batch) -> Tensor:
        x = batch[self.modality].transpose(1, 2)  # [B, channels, F]
        return self.encode(x, batch)

    def encode(self, x: Tensor, batch: Batch) -> Tensor:
        """[B, channels, F] to features."""
        lengths = batch[f"{self.modality}_lengths"]
        for stride, convolution in zip(self.strides, self.convolutions, strict=True):
            valid = torch.arange(x.shape[2], device=x.device) < lengths[:, None]
            x = convolution(x * valid[:, None]).relu()  # padding stays zero, as beyond the end
            lengths = (lengths + stride - 1) // stride
        x = x.transpose(1, 2)  # [B, F', D]
        if self.stream:
            return pool_to_steps(x, lengths, batch["steps"])
        if self.rnn is None:
            return x
        _, state = self.rnn(x, lengths=lengths)
        return state[-1]


class AudioEncoder(FrameEncoder):
    """FrameEncoder over log-mel frames, each normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "audio", config.mels)
        self.norm = nn.LayerNorm(config.mels)

    def forward(self, batch: Batch) -> Tensor:
        return self.encode(self.norm(batch["audio"]).transpose(1, 2), batch)


class SeriesEncoder(FrameEncoder):
    """FrameEncoder over a numeric series, whose variables the data have standardised."""

    def __init__(self, config: ModelConfig) -> None:
        if config.variables < 1:
            raise ConfigError("a series needs at least one variable: set ModelConfig.variables")
        super().__init__(config, "series", config.variables)


class Adapted(nn.Module):
    """An encoder and a linear map to the width that the fusion reads."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = width
        self.project = nn.Linear(features_of(encoder), width)

    def lengths(self, batch: Batch) -> Tensor | None:
        """The encoder's."""
        return lengths_of(self.encoder, batch)

    def forward(self, batch: Batch) -> Tensor:
        return self.project(self.encoder(batch))


def stepping(config: ModelConfig) -> str:
    """The modality whose steps a fusion follows: text before audio, series, an image's grid.

    "" where the fusion follows none. An encoder asks it whether to give steps.

    Raises:
        ConfigError: the fusion needs one, and no modality has steps.
    """
    if config.fusion not in ("parallel", "init"):
        return ""
    for name in ("text", "audio", "series"):
        if name in config.modalities:
            return name
    if config.image_steps:
        return "image"
    raise ConfigError(
        f"{config.fusion} follows the steps of text, audio or a series, and there is none: "
        "set image_steps, or choose fusion tokens"
    )


def pool_to_steps(x: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
    """Cut each row's frames into as many equal parts as it has steps, and average each part.

    Args:
        x: [B, F, D] frames.
        lengths: int [B], how many of them each row has, at least 1.
        steps: bool [B, T], the steps each row has.

    Returns:
        [B, T, D]; 0 where a row has no step. Parts are adaptive_avg_pool1d's.
    """
    count = steps.sum(1)[:, None]  # [B, 1]
    step = torch.arange(steps.shape[1], device=x.device)
    first = step * lengths[:, None] // count  # [B, T]
    end = ((step + 1) * lengths[:, None] + count - 1) // count
    frame = torch.arange(x.shape[1], device=x.device)
    inside = (frame >= first[..., None]) & (frame < end[..., None]) & steps[..., None]  # [B, T, F]
    share = inside.to(x.dtype) / inside.sum(2, keepdim=True).clamp_min(1)
    return share @ x


def _summary(config: ModelConfig, modality: str) -> nn.Module | None:
    """The layer that reads a modality's steps to their end; None where the fusion reads them."""
    if stepping(config) == modality:
        return None
    cell = "rnn" if config.cell == "none" else config.cell  # "none" is of the fusing layer alone
    return recurrent(cell, config.width, config.width)


ENCODERS: dict[str, Factory] = {
    "audio": AudioEncoder,
    "image": ImageEncoder,
    "series": SeriesEncoder,
    "text": TextEncoder,
}
BUILT_IN = frozenset(ENCODERS)


def register_encoder(name: str, factory: Factory) -> None:
    """Make an encoder known, so that `ModelConfig(encoders=(("image", name),))` uses it.

    Register it before a run that uses it is trained or loaded. The same name again replaces it.

    Args:
        factory: takes the ModelConfig, returns the module; see above for what it has to be.

    Raises:
        ConfigError: the name is one of the built-in encoders'.
    """
    if name in BUILT_IN:
        raise ConfigError(f"{name!r} is a built-in encoder; give yours another name")
    ENCODERS[name] = factory


def make_encoder(config: ModelConfig, modality: str) -> nn.Module:
    """A modality's encoder, with `width` features wherever the fusion needs that.

    Raises:
        ConfigError: it is not known, or is the built-in one of another modality.
    """
    name = dict(config.encoders).get(modality, modality)
    if name not in ENCODERS:
        raise ConfigError(
            f"no encoder {name!r} for {modality}; known are {', '.join(sorted(ENCODERS))}. "
            "register_encoder makes one of yours known"
        )
    if name in BUILT_IN and name != modality:
        raise ConfigError(f"the encoder {name!r} reads {name}; {modality} needs another")
    encoder = ENCODERS[name](config)
    if config.fusion != "concat" and features_of(encoder) != config.width:
        return Adapted(encoder, config.width)
    return encoder


def features_of(encoder: nn.Module) -> int:
    """How many features an encoder gives.

    Raises:
        ConfigError: it does not say.
    """
    features = getattr(encoder, "features", None)
    if not isinstance(features, int):
        raise ConfigError(
            f"the encoder {type(encoder).__name__} does not say how many features it gives: "
            "set its attribute `features`, an int"
        )
    return features


def lengths_of(encoder: nn.Module, batch: Batch) -> Tensor | None:
    """The lengths int [B] of an encoder's steps; None where every row has them all."""
    lengths = getattr(encoder, "lengths", None)
    return None if lengths is None else lengths(batch)
