"""Encoders map a batch (see batch.py) to the features of one input.

An encoder is written for a modality. It gets the keys of its input without the name of the column:
"image" and "image_frames" for the input "image:front" (views.py). Columns that share an encoder
pass through it one after another.

With B rows, T steps and D features, an encoder is any module with

    features: int                       # D
    forward(batch) -> Tensor            # [B, D]; or steps [B, L, D]; for streams also [B, T, D]
    lengths(batch) -> Tensor | None     # lengths of its steps: int [B], at least 1; None, or no
                                        # such method: all steps are valid in every row

`register_encoder` registers one by name, and `ModelConfig.encoders` selects it instead of the
built-in encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..config.inputs import modality_of
from ..config.schema import ModelConfig
from ..errors import ConfigError
from ..strings import plural
from .pooling import Pooling, pool_to_steps
from .tabular import TabularEncoder
from .text import TextEncoder
from .views import config_of, stepping

Factory = Callable[[ModelConfig], nn.Module]


class ImageEncoder(nn.Module):
    """Stages of convolution, max pooling and ReLU, pooled to a grid and projected.

    The mean and the maximum of each stage's maps, those that `pooling` names, join the grid: they
    say which colours and textures an image has, wherever they are.

    Each distinct image of a batch is encoded once, and its features are copied wherever it
    appears. With `image_steps` each cell of the grid is a step, in row-major order. With `grid` 0
    there is no pooling to a grid: convolutions have no padding, and a vector consists of all
    features, flattened without a projection. Neither has the means and maxima.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.stream and config.image_steps:
            raise ConfigError("image_steps needs one image per row, but the rows are sequences")
        stages: list[nn.Module] = []
        channels, side = config.image_channels, config.image_size
        padding = 1 if config.grid else 0
        for features in config.conv:
            # ReLU commutes with max pooling, and costs a quarter after it
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
        # On a CPU, convolution and pooling are about twice as fast in this layout (measured).
        self.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = channels if self.steps else channels * (config.grid or side) ** 2
        flat = not (config.grid or self.steps)
        self.summaries = [
            kind for kind in config.pooling if kind in ("mean", "max") and not (flat or self.steps)
        ]
        inputs += len(self.summaries) * sum(config.conv)
        # The mean of a map is much smaller than its maximum.
        self.norm = nn.LayerNorm(inputs) if self.summaries else nn.Identity()
        self.features = inputs if flat else config.width
        self.project = nn.Identity() if flat else nn.Linear(inputs, config.width)

    def forward(self, batch: Batch) -> Tensor:
        weight = next(self.parameters())
        pixels = batch["image_frames"].to(weight.dtype) / 127.5 - 1  # [U, C, S, S], in [-1, 1]
        maps = pixels.contiguous(memory_format=torch.channels_last)
        found = []  # [U, features of a stage] each
        for layer in self.stages:
            maps = layer(maps)
            if isinstance(layer, nn.ReLU):
                for kind in self.summaries:
                    found.append(maps.mean((2, 3)) if kind == "mean" else maps.amax((2, 3)))
        if self.steps:
            features = self.project(maps.flatten(2).transpose(1, 2))  # [U, g², D]
        else:
            features = self.project(self.norm(torch.cat([maps.flatten(1), *found], 1)))  # [U, D]
        return features[batch["image"]]  # [U, ...] -> [B, ...] or, for streams, [B, T, D]


class FrameEncoder(nn.Module):
    """Strided convolutions over frames, pooled over time, or their output as steps."""

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
            raise ConfigError(f"{modality} needs a convolution: give strides, for example (1,)")
        self.pool = None if config.stream or stepping(config) == modality else Pooling(config)

    def lengths(self, batch: Batch) -> Tensor | None:
        """Return the lengths of the steps; None if the output is a vector or a stream."""
        if self.stream or self.pool is not None:
            return None
        lengths = batch[f"{self.modality}_lengths"]
        for stride in self.strides:
            lengths = (lengths + stride - 1) // stride
        return lengths

    def forward(self, batch: Batch) -> Tensor:
        x = batch[self.modality].transpose(1, 2)  # [B, channels, F]
        return self.encode(x, batch)

    def encode(self, x: Tensor, batch: Batch) -> Tensor:
        """Encode x [B, channels, F]."""
        lengths = batch[f"{self.modality}_lengths"]
        for stride, convolution in zip(self.strides, self.convolutions, strict=True):
            valid = torch.arange(x.shape[2], device=x.device) < lengths[:, None]
            x = convolution(x * valid[:, None]).relu()  # as if zero-padded at its own end
            lengths = (lengths + stride - 1) // stride
        x = x.transpose(1, 2)  # [B, F', D]
        if self.stream:
            return pool_to_steps(x, lengths, batch["steps"])
        return x if self.pool is None else self.pool(x, lengths)


class AudioEncoder(FrameEncoder):
    """FrameEncoder over log-mel frames, with a LayerNorm over each frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "audio", config.mels)
        self.norm = nn.LayerNorm(config.mels)

    def forward(self, batch: Batch) -> Tensor:
        return self.encode(self.norm(batch["audio"]).transpose(1, 2), batch)


class SeriesEncoder(FrameEncoder):
    """FrameEncoder over a numeric series, which is standardised."""

    def __init__(self, config: ModelConfig) -> None:
        if config.variables < 1:
            raise ConfigError("a series needs at least one variable: set ModelConfig.variables")
        super().__init__(config, "series", config.variables)


class Adapted(nn.Module):
    """An encoder with a linear projection to the width that the fusion reads."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = width
        self.project = nn.Linear(features_of(encoder), width)

    def lengths(self, batch: Batch) -> Tensor | None:
        """Return the encoder's lengths."""
        return lengths_of(self.encoder, batch)

    def forward(self, batch: Batch) -> Tensor:
        return self.project(self.encoder(batch))


ENCODERS: dict[str, Factory] = {
    "audio": AudioEncoder,
    "image": ImageEncoder,
    "series": SeriesEncoder,
    "tabular": TabularEncoder,
    "text": TextEncoder,
}
BUILT_IN = frozenset(ENCODERS)


def register_encoder(name: str, factory: Factory) -> None:
    """Register an encoder, so that `ModelConfig(encoders=(("image", name),))` uses it.

    Register it before training or loading a run that uses it. Registering a name again replaces
    its encoder.

    Args:
        name: any name that no built-in encoder has.
        factory: maps the ModelConfig to the module; see the module's docstring for its interface.

    Raises:
        ConfigError: the name belongs to a built-in encoder.
    """
    if name in BUILT_IN:
        raise ConfigError(f"{name!r} is a built-in encoder; give yours another name")
    ENCODERS[name] = factory


def make_encoder(config: ModelConfig, key: str) -> nn.Module:
    """Create an encoder, with `width` features unless the fusion is "concat".

    Args:
        key: the input, or the modality of inputs that share the encoder.

    Raises:
        ConfigError: the encoder is unknown, or is the built-in one of another modality.
    """
    modality = modality_of(key)
    named = dict(config.encoders)
    name = named.get(key, named.get(modality, modality))
    pretrained = config.pretrained_of(key)
    if pretrained is not None:
        from .pretrained import pretrained_encoder  # it needs this module

        encoder: nn.Module = pretrained_encoder(config_of(config, key), modality, pretrained)
    else:
        check_name(name, key)
        encoder = ENCODERS[name](config_of(config, key))
    if config.fusion != "concat" and features_of(encoder) != config.width:
        return Adapted(encoder, config.width)
    return encoder


def check_name(name: str, key: str) -> None:
    """Check the name of the encoder of an input.

    Raises:
        ConfigError: no encoder is registered by this name, or it is the built-in one of another
            modality.
    """
    if ":" in name and name not in ENCODERS:
        raise ConfigError(
            f"the encoder of {key} is {name}, which is imported only if you name it: give "
            f"--encoders {key}={name}, or encoders={{{key!r}: {name!r}}}, if you trust it"
        )
    if name not in ENCODERS:
        raise ConfigError(
            f"no encoder {name!r} for {key}; there are {', '.join(sorted(ENCODERS))}. "
            "Register your own with register_encoder"
        )
    modality = modality_of(key)
    if name in BUILT_IN and name != modality:
        raise ConfigError(f"the encoder {name!r} reads {name}; {modality} needs another")


def features_of(encoder: nn.Module) -> int:
    """Return the number of features of an encoder's output.

    Raises:
        ConfigError: the encoder has no integer attribute `features`.
    """
    features = getattr(encoder, "features", None)
    if not isinstance(features, int):
        raise ConfigError(
            f"the encoder {type(encoder).__name__} does not say how many features it returns: "
            "set its attribute `features` to an int"
        )
    return features


def lengths_of(encoder: nn.Module, batch: Batch) -> Tensor | None:
    """Return the lengths of an encoder's steps, int [B]; None if all are valid in every row."""
    lengths = getattr(encoder, "lengths", None)
    return None if lengths is None else lengths(batch)
