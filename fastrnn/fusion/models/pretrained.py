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

_AST = "audio-spectrogram-transformer"


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
        return self._steps(batch["audio_lengths"]) if self.returns_steps else None

    @property
    def kind(self) -> str:
        """The architecture. Whisper and AST read frames of a fixed number, the others samples."""
        return self.config.architecture["model_type"]

    def encode(self, batch: Batch) -> Tensor:
        audio, lengths = batch["audio"], batch["audio_lengths"]
        encode = {"whisper": self._whisper, _AST: self._ast}.get(self.kind, self._waveforms)
        hidden = encode(audio, lengths)
        if hidden.dim() == 2:
            return hidden
        if self.stream:
            return pool_to_steps(hidden, self._steps(lengths), batch["steps"])
        return hidden if self.returns_steps else mean(hidden, self._steps(lengths))

    def _whisper(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Encode frames [B, F, bands]."""
        backbone: Any = self.backbone
        frames = _extended(frames, lengths, 2 * backbone.config.max_source_positions)
        return backbone(frames.transpose(1, 2)).last_hidden_state

    def _ast(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Encode frames [B, F, bands]. A vector is the mean of the two class tokens, as in AST.

        A step is the mean of the patches of one time.
        """
        backbone: Any = self.backbone
        config = backbone.config
        hidden = backbone(_extended(frames, lengths, config.max_length)).last_hidden_state
        if not (self.returns_steps or self.stream):
            return hidden[:, :2].mean(1)
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        return hidden[:, 2:].unflatten(1, (bands, -1)).mean(1)

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
        """Return the number of steps of waveforms or frames, at least 1."""
        config: Any = self.backbone.config
        if self.kind == "whisper":
            return ((lengths + 1) // 2).clamp(1, config.max_source_positions)
        if self.kind == _AST:
            layers = [(config.patch_size, config.time_stride)]
        else:
            layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        for kernel, stride in layers:
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


def _extended(frames: Tensor, lengths: Tensor, wanted: int) -> Tensor:
    """Repeat the last valid frame of each clip, [B, F, bands]: as its extractor pads it."""
    frame = torch.arange(max(wanted, frames.shape[1]), device=frames.device)
    frame = torch.minimum(frame, (lengths - 1).clamp_min(0)[:, None])
    return frames.gather(1, frame[..., None].expand(-1, -1, frames.shape[2]))


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
