"""Encoders around pretrained backbones: their inputs, and their steps as a vector.

With B rows, U distinct images, L steps and D features. Where the fusion follows the steps of an
input, its encoder returns them; otherwise it pools them.

A batch may have the features of a frozen encoder instead of its input (batch.py), because they are
computed once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..config.pretrained import PretrainedConfig
from ..config.schema import ModelConfig
from ..errors import ConfigError
from .backbones import blocks_of, load_weights, make_backbone
from .pooling import pool_to_steps
from .recurrent import mean, valid
from .views import stepping


class PretrainedEncoder(nn.Module, ABC):
    """A backbone and the pooling of its steps. A frozen part is always in evaluation mode."""

    modality: str

    def __init__(self, config: ModelConfig, pretrained: PretrainedConfig) -> None:
        super().__init__()
        self.config = pretrained
        self.stream = config.stream
        self.returns_steps = stepping(config) == self.modality
        self.backbone = make_backbone(self.modality, pretrained)
        self.features = self._features()

    def _features(self) -> int:
        backbone: Any = self.backbone
        if self.config.library == "timm":
            return int(backbone.num_features)
        config = backbone.config
        sizes = getattr(config, "hidden_sizes", None)  # of the stages of convolutions
        return int(sizes[-1] if sizes else config.hidden_size)

    @property
    def is_frozen(self) -> bool:
        """Whether no weight of the backbone is trained."""
        return self.config.finetune == "frozen"

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Set the mode of the trained blocks; the others stay in evaluation mode."""
        super().train(mode)
        if self.config.finetune != "full":
            self.backbone.eval()
        for block in (
            list(blocks_of(self.backbone))[-self.config.blocks :] if (self.config.blocks) else ()
        ):
            block.train(mode)
        return self

    def load_weights(self, folder: Path) -> None:
        """Load the pretrained weights; see backbones.load_weights."""
        load_weights(self.backbone, self.config, folder)

    def lengths(self, batch: Batch) -> Tensor | None:
        """Return the lengths of the steps; None if the output is a vector or a stream."""
        return None

    def forward(self, batch: Batch) -> Tensor:
        found = batch.get(f"{self.modality}_features")
        if found is not None:
            return found[batch[self.modality]]
        # In evaluation, attributions need gradients with respect to the input.
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and not (self.is_frozen and self.training)
        ):
            return self.encode(batch)

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """Return the features of each row."""


class PretrainedImage(PretrainedEncoder):
    """Distinct images are encoded once. The steps are patches, in row-major order."""

    modality = "image"

    def __init__(self, config: ModelConfig, pretrained: PretrainedConfig) -> None:
        super().__init__(config, pretrained)
        if config.stream and self.returns_steps:
            raise ConfigError("image_steps needs one image per row, but the rows are sequences")
        shape = (-1, 1, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(pretrained.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(pretrained.std).view(shape), persistent=False)

    def encode(self, batch: Batch) -> Tensor:
        return self.encode_frames(batch)[batch["image"]]

    def encode_frames(self, batch: Batch) -> Tensor:
        """Return the features of each distinct image, [U, D] or [U, L, D]."""
        backbone: Any = self.backbone
        weight = next(self.backbone.parameters())
        pixels = (batch["image_frames"].to(weight.dtype) / 255 - self.mean) / self.std
        if self.config.library == "timm":
            return self._timm(backbone, pixels)
        kind = self.config.architecture["model_type"]
        more = {"interpolate_pos_encoding": False} if kind == "siglip_vision_model" else {}
        hidden = backbone(pixel_values=pixels, **more).last_hidden_state
        if hidden.dim() == 4:  # a map of convolutions
            hidden = hidden.flatten(2).transpose(1, 2)
        if kind.startswith("convnext"):  # it normalises the mean
            return backbone.layernorm(hidden if self.returns_steps else hidden.mean(1))
        first = {"deit": 2, "vit": 1, "beit": 1, "dinov2": 1}.get(kind, 0)
        if kind == "dinov2_with_registers":
            first = 1 + backbone.config.num_register_tokens
        if self.returns_steps:
            return hidden[:, first:]
        return hidden[:, 0] if self.config.pool == "first" else hidden.mean(1)

    def _timm(self, backbone: Any, pixels: Tensor) -> Tensor:
        if not self.returns_steps:
            return backbone(pixels)  # with the pooling that it was trained with
        hidden = backbone.forward_features(pixels)
        if hidden.dim() == 3:
            return hidden[:, getattr(backbone, "num_prefix_tokens", 0) :]
        if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
            return hidden.flatten(1, 2)
        return hidden.flatten(2).transpose(1, 2)


class PretrainedText(PretrainedEncoder):
    """The steps are tokens, with the special ones."""

    modality = "text"

    def lengths(self, batch: Batch) -> Tensor | None:
        """Return the lengths of the steps; None if the output is a vector."""
        return batch["text_lengths"] if self.returns_steps else None

    def encode(self, batch: Batch) -> Tensor:
        backbone: Any = self.backbone
        tokens, lengths = batch["text"], batch["text_lengths"]
        mask = valid(tokens, lengths)
        # Some models number positions by the tokens that are no padding.
        tokens = tokens.masked_fill(~mask, backbone.config.pad_token_id or 0)
        hidden = backbone(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        if self.returns_steps:
            return hidden
        return hidden[:, 0] if self.config.pool == "first" else mean(hidden, lengths)


class PretrainedAudio(PretrainedEncoder):
    """The steps are frames. Of a stream, as many parts of a clip are pooled as there are steps."""

    modality = "audio"

    def lengths(self, batch: Batch) -> Tensor | None:
        """Return the lengths of the steps; None if the output is a vector or a stream."""
        if not self.returns_steps:
            return None
        if self.is_waveform:
            return self._steps(batch["audio_lengths"])
        return None

    @property
    def is_waveform(self) -> bool:
        """Whether the backbone reads samples, not frames of a fixed number."""
        return self.config.architecture["model_type"] in ("hubert", "wav2vec2", "wavlm")

    def encode(self, batch: Batch) -> Tensor:
        if self.is_waveform:
            hidden = self._waveforms(batch["audio"], batch["audio_lengths"])
            lengths = self._steps(batch["audio_lengths"])
        else:
            hidden = self._frames(batch["audio"])
            lengths = torch.full_like(batch["audio_lengths"], hidden.shape[1])
        if self.stream:
            return pool_to_steps(hidden, lengths, batch["steps"])
        return hidden if self.returns_steps else mean(hidden, lengths)

    def _frames(self, frames: Tensor) -> Tensor:
        """Encode frames [B, F, bands]; a batch without a clip has fewer than the model reads."""
        backbone: Any = self.backbone
        if self.config.architecture["model_type"] == "whisper":
            wanted = 2 * backbone.config.max_source_positions
            frames = nn.functional.pad(frames, (0, 0, 0, max(0, wanted - frames.shape[1])))
            return backbone(frames.transpose(1, 2)).last_hidden_state
        wanted = backbone.config.max_length
        frames = nn.functional.pad(frames, (0, 0, 0, max(0, wanted - frames.shape[1])))
        return backbone(frames).last_hidden_state

    def _waveforms(self, wave: Tensor, lengths: Tensor) -> Tensor:
        """Encode waveforms [B, N]."""
        backbone: Any = self.backbone
        short = self._receptive_field()
        wave = nn.functional.pad(wave, (0, max(0, short - wave.shape[1])))
        lengths = lengths.clamp_min(short)
        if backbone.config.feat_extract_norm == "layer":
            mask = valid(wave, lengths).long()
            return backbone(wave, attention_mask=mask).last_hidden_state
        # A group norm averages over time, also over padding, so only equal lengths are batched.
        parts, places = [], []
        steps = int(self._steps(lengths).max())
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            hidden = backbone(wave[rows, :length]).last_hidden_state
            parts.append(nn.functional.pad(hidden, (0, 0, 0, steps - hidden.shape[1])))
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _steps(self, lengths: Tensor) -> Tensor:
        """Return the number of steps of waveforms, at least 1."""
        config: Any = self.backbone.config
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths.clamp_min(1)

    def _receptive_field(self) -> int:
        """Return the number of samples of one step."""
        config: Any = self.backbone.config
        size = 1
        for kernel, stride in zip(
            reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
        ):
            size = (size - 1) * stride + kernel
        return size


PRETRAINED: dict[str, Callable[[ModelConfig, PretrainedConfig], PretrainedEncoder]] = {
    "audio": PretrainedAudio,
    "image": PretrainedImage,
    "text": PretrainedText,
}


def pretrained_encoder(
    config: ModelConfig, modality: str, pretrained: PretrainedConfig
) -> PretrainedEncoder:
    """Create a pretrained encoder with random weights.

    Raises:
        ConfigError: its library is not installed, or it does not fit the modality.
    """
    if modality not in PRETRAINED or not getattr(pretrained.preprocessing, modality):
        raise ConfigError(f"the pretrained encoder of {modality} is one of another modality")
    return PRETRAINED[modality](config, pretrained)
