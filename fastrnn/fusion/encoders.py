"""Encoders: from a batch (see data.py) to features (B, D), or (B, T, D) for streams.

B rows, T steps, D = `width`. An encoder is any module with this signature; `ENCODERS` names them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastrnn import FusedRNN

from .config import ModelConfig
from .data import Batch


class ImageEncoder(nn.Module):
    """Stages of convolution, max pooling and relu; a grid of their features; a linear map.

    Each distinct image of a batch is encoded once, and its features go wherever it appears.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = config.image_channels
        for features in config.conv:
            # relu after the pool: the same values as before it, from a quarter of the work
            stages += [nn.Conv2d(channels, features, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
            channels = features
        self.stages = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(config.grid), nn.Flatten())
        # Measured on a CPU, convolution and pooling run about twice as fast in this layout.
        self.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.project = nn.Linear(channels * config.grid**2, config.width)

    def forward(self, batch: Batch) -> Tensor:
        pixels = batch["frames"].to(self.project.weight.dtype) / 127.5 - 1  # [U, C, S, S], ±1
        features = self.project(self.stages(pixels.contiguous(memory_format=torch.channels_last)))
        return features[batch["image"]]  # [U, D] -> [B, D] or [B, T, D]


class TextEncoder(nn.Module):
    """Embedding, recurrent layer, its state after the last token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.rnn = orthogonal(FusedRNN(config.width, config.width, batch_first=True))

    def forward(self, batch: Batch) -> Tensor:
        _, state = self.rnn(self.embed(batch["text"]), lengths=batch["text_lengths"])
        return state[-1]  # [B, D]


class AudioEncoder(nn.Module):
    """Strided convolutions over log-mel frames; then a recurrent layer's last state, or steps."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.mels)
        self.strides = config.strides
        self.convolutions = nn.ModuleList()
        channels = config.mels
        for stride in config.strides:
            self.convolutions.append(nn.Conv1d(channels, config.width, 3, stride, padding=1))
            channels = config.width
        self.rnn = (
            None
            if config.stream
            else orthogonal(FusedRNN(channels, config.width, batch_first=True))
        )

    def forward(self, batch: Batch) -> Tensor:
        x = self.norm(batch["audio"]).transpose(1, 2)  # [B, mels, F]
        lengths = batch["audio_lengths"]
        for stride, convolution in zip(self.strides, self.convolutions, strict=True):
            valid = torch.arange(x.shape[2], device=x.device) < lengths[:, None]
            x = convolution(x * valid[:, None]).relu()  # padding stays zero, as beyond the end
            lengths = (lengths + stride - 1) // stride
        x = x.transpose(1, 2)  # [B, F', D]
        if self.rnn is None:
            return pool_to_steps(x, lengths, batch["steps"])
        _, state = self.rnn(x, lengths=lengths)
        return state[-1]


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


def orthogonal(rnn: FusedRNN) -> FusedRNN:
    """The same layer, its W_hh orthogonal: states then neither fade nor grow at the start."""
    for name, weight in rnn.named_parameters():
        if name.startswith("weight_hh"):
            nn.init.orthogonal_(weight)
    return rnn


ENCODERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "audio": AudioEncoder,
    "image": ImageEncoder,
    "text": TextEncoder,
}
