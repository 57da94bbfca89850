"""Random changes of training batches: shifted and mirrored images, silence, and SpecAugment.

Files are decoded once and cached, so a batch is changed on the device, just before the forward
pass. The numbers of a row are drawn from the seed, the epoch, the step and the row's position in
the step. They depend neither on the processes nor on the accumulated batches that share a step, so
a resumed run and several processes see the same rows as one uninterrupted run.

Images of one row, such as the steps of a stream, are changed alike. A batch has each distinct image
once (batch.py), which is changed for the first of its rows. If rows of several accumulated batches
or processes share an image, it is changed in each for the first row there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..config.inputs import of_modality
from ..config.schema import ModelConfig
from ..config.training import TrainConfig
from ..data.audio import SILENCE
from ..data.dataset import FusionDataset
from ..data.processor import Processor
from ..errors import ConfigError, MediaError
from .sampler import number

_MARGIN = 1 / 8  # an image is shifted by up to this share of its side; 4 of CIFAR's 32 pixels
# SpecAugment's policy "Switchboard mild": two masks of up to 15 of 80 mel bands, and two of up to
# 70 frames and a fifth of the clip.
_MASKS, _BANDS, _LONGEST, _SHARE = 2, 15 / 80, 70, 1 / 5
_IMAGE, _AUDIO, _SILENCE = 3, 4 * _MASKS, 2  # random numbers of a row
_LONGEST_SILENCE_MS = 500  # before a clip, and after it

_SAMPLE = 32  # training images that decide whether images are augmented
_COLOURED = 4.0  # mean difference of an image's channels, of 255; JPEG makes smaller ones
_PLAIN = 0.25  # a drawing or a text has a ground of one colour, on a larger share of its pixels


@dataclass(frozen=True)
class Augmentation:
    """The changes of a training's batches."""

    images: tuple[str, ...] = ("image",)  # names of inputs
    audio: tuple[str, ...] = ("audio",)  # of log-mel frames
    flip: bool = False
    crop: bool = False
    spec: bool = False
    silence: int = 0  # the most frames of silence before a clip, and after it

    @classmethod
    def of(cls, training: TrainConfig, model: ModelConfig, processor: Processor) -> Augmentation:
        """Return the changes that concern a network; `augment_images` is no longer "auto"."""
        silence = training.random_silence and not model.stream  # steps keep their place
        return cls(
            images=tuple(of_modality(model.modalities, "image")),
            audio=tuple(processor.log_mels(model.modalities)),
            flip=training.augment_images == "flip",
            crop=training.augment_images in ("crop", "flip"),
            spec=training.spec_augment,
            silence=round(_LONGEST_SILENCE_MS / processor.config.hop_ms) if silence else 0,
        )

    def draw(self, rows: int, *position: int) -> Tensor:
        """Draw the random numbers of a step's rows from its position: [rows, K] in [0, 1)."""
        generator = torch.Generator().manual_seed(number(*position))
        return torch.rand(rows, _IMAGE + _AUDIO + _SILENCE, generator=generator)

    def __call__(self, batch: Batch, numbers: Tensor) -> Batch:
        """Change a batch.

        Args:
            numbers: those of its rows, [B, K], from `draw`.
        """
        if not (self.crop or self.spec or self.silence):
            return batch
        # The host decides the size of the batch, so that it need not wait for the device.
        longest = int((numbers[:, -_SILENCE:] * (self.silence + 1)).long().sum(1).max())
        numbers = numbers.to(batch["label"].device, non_blocking=True)
        of_images, of_masks, of_silence = numbers.split([_IMAGE, _AUDIO, _SILENCE], dim=1)
        result = dict(batch)
        for name in self.images if self.crop else ():
            frames = f"{name}_frames"
            drawn = of_images[_first_rows(batch, name, frames)]
            result[frames] = shift(batch[frames], drawn, self.flip)
        for name in self.audio:
            audio, lengths = batch[name], batch[f"{name}_lengths"]
            if self.spec:
                audio = mask(audio, lengths, of_masks)
            if self.silence:
                before, after = (of_silence * (self.silence + 1)).long().unbind(1)
                audio, lengths = surround(audio, lengths, before, after, longest)
            result |= {name: audio, f"{name}_lengths": lengths}
        return result


def shift(frames: Tensor, numbers: Tensor, flip: bool) -> Tensor:
    """Shift images, repeating the pixels of their edges, and mirror some horizontally.

    This is a crop at a random offset of an image that is padded by an eighth of each side.

    Args:
        frames: [U, C, height, width].
        numbers: [U, 3] in [0, 1): the vertical and the horizontal shift, and whether to mirror.
    """
    y, x = (
        _shifted(side, number) for side, number in zip(frames.shape[2:], numbers.t(), strict=False)
    )
    if flip:
        x = torch.where(numbers[:, 2:] < 0.5, x.flip(1), x)
    image = torch.arange(len(frames), device=frames.device)[:, None, None]
    return frames[image, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def _shifted(side: int, numbers: Tensor) -> Tensor:
    """Return the positions of the pixels of a side after a random shift: int64 [U, side]."""
    margin = round(side * _MARGIN)
    offset = (numbers * (2 * margin + 1)).long() - margin  # [U]
    return (torch.arange(side, device=numbers.device) + offset[:, None]).clamp(0, side - 1)


def mask(audio: Tensor, lengths: Tensor, numbers: Tensor) -> Tensor:
    """Set bands and frames of clips to the mean of the clip: SpecAugment (Park et al. 2019).

    Args:
        audio: float [B, F, mels], log-mel frames.
        lengths: int [B], the valid frames of each row.
        numbers: [B, 8] in [0, 1): widths and places of two masks of bands, then of frames.
    """
    frames, mels = audio.shape[1:]
    frame = torch.arange(frames, device=audio.device)
    band = torch.arange(mels, device=audio.device)
    valid = frame < lengths[:, None]
    bands = torch.full_like(lengths, round(mels * _BANDS))
    longest = (lengths * _SHARE).long().clamp_max(_LONGEST)
    widths, places, lasting, starts = numbers.split(_MASKS, dim=1)
    hidden_bands = _intervals(band, torch.full_like(lengths, mels), bands, widths, places)
    hidden_frames = _intervals(frame, lengths, longest, lasting, starts) & valid
    hidden = (hidden_frames[:, :, None] | hidden_bands[:, None, :]) & valid[:, :, None]
    mean = (audio * valid[:, :, None]).sum((1, 2)) / (lengths * mels)
    return torch.where(hidden, mean[:, None, None], audio)


def surround(
    audio: Tensor, lengths: Tensor, before: Tensor, after: Tensor, longest: int
) -> tuple[Tensor, Tensor]:
    """Add frames of silence before and after each clip; return the clips and their lengths.

    Args:
        audio: float [B, F, mels], log-mel frames.
        lengths: int [B], the valid frames of each row.
        before: int [B], frames to add before the clip.
        after: int [B], frames to add after it.
        longest: the most frames to add to a clip, before and after it.
    """
    longer = lengths + before + after
    frame = torch.arange(audio.shape[1] + longest, device=audio.device)
    source = frame - before[:, None]  # [B, F']
    inside = (source >= 0) & (source < lengths[:, None])
    index = source.clamp(0, audio.shape[1] - 1)[..., None].expand(-1, -1, audio.shape[2])
    return torch.where(inside[..., None], audio.gather(1, index), SILENCE), longer


def _intervals(
    position: Tensor, length: Tensor, longest: Tensor, widths: Tensor, places: Tensor
) -> Tensor:
    """Mark random intervals of up to `longest` of the first `length` positions: bool [B, P]."""
    width = (widths * (longest[:, None] + 1)).long()  # [B, masks]
    start = (places * (length[:, None] - width + 1)).long()
    inside = (position >= start[..., None]) & (position < (start + width)[..., None])
    return inside.any(1)


def _first_rows(batch: Batch, name: str, frames: str) -> Tensor:
    """Return the first row that shows each image: int64 [U]."""
    index = batch[name] if batch[name].dim() > 1 else batch[name][:, None]  # [B, T]
    shown = torch.ones_like(index, dtype=torch.bool)
    if f"{name}_present" in batch:
        shown &= batch[f"{name}_present"][:, None]
    if "steps" in batch:
        shown &= batch["steps"]
    last = len(index) - 1
    row = torch.arange(len(index), device=index.device)[:, None].expand_as(index)
    row = torch.where(shown, row, last)
    first = torch.full((len(batch[frames]),), last, device=index.device)
    return first.scatter_reduce(0, index.flatten(), row.flatten(), "amin")


def check(
    training: TrainConfig, modalities: Sequence[str], stream: bool, own: Collection[str] = ()
) -> None:
    """Check that the options fit the rows.

    Args:
        own: the inputs whose encoder has its own preprocessing, so that they may not be frames.

    Raises:
        ConfigError: rows have no images or no audio, or images of streams would be mirrored.
    """
    chosen = training.augment_images
    if chosen in ("crop", "flip") and not of_modality(modalities, "image"):
        raise ConfigError(f"augment_images {chosen} needs images, but the rows have none; omit it")
    if training.spec_augment and not of_modality(modalities, "audio"):
        raise ConfigError("spec_augment needs audio, but the rows have none; omit it")
    if training.spec_augment and not set(of_modality(modalities, "audio")) - set(own):
        raise ConfigError(
            "spec_augment masks log-mel frames, but the encoder of the audio has its own "
            "preprocessing; omit it"
        )
    if chosen == "flip" and stream:
        raise ConfigError(
            "augment_images flip does not apply to streams, whose steps may share images; choose "
            "crop or none"
        )


def choose(training: TrainConfig, rows: FusionDataset, *, frozen: bool = False) -> tuple[str, str]:
    """Decide `augment_images` from the training rows; return it and the reason.

    "auto" changes only coloured photographs. A digit, a letter or a sign that is mirrored, or loses
    its edge, may have another label.

    Args:
        frozen: whether the features of all images can be computed once.
    """
    inputs = of_modality(rows.processor.modalities, "image")
    if training.augment_images != "auto" or not inputs:
        return training.augment_images.replace("auto", "none"), ""
    if frozen:
        return "none", "so that the features of frozen encoders are computed once"
    images = [each for name in inputs for each in _sample(rows, name)]
    if images and all(len(each) == 1 for each in images):
        return "none", "images have one channel"
    photographs = sum(map(_is_photograph, images))
    reason = f"{photographs} of {len(images)} training images are coloured photographs"
    if 2 * photographs <= len(images):
        return "none", reason
    if rows.processor.stream:
        return "crop", f"{reason}; steps of a stream are not mirrored"
    if of_modality(rows.processor.modalities, "text"):
        return "crop", f"{reason}; a text may speak of left and right"
    return "flip", reason


def _sample(rows: FusionDataset, name: str) -> list[np.ndarray]:
    """Decode the images of some rows, spread evenly; those that are damaged are left out."""
    media = rows.media[name]
    found: list[np.ndarray] = []
    places = np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int)
    for row in rows.rows[places].tolist():
        try:
            found += map(media.load, media.numbers[row][:1].tolist())
        except MediaError:
            continue  # an error of the row, when that is read
    return found


def _is_photograph(image: np.ndarray) -> bool:
    """Whether an image, uint8 [C, H, W], is coloured and has no plain ground."""
    pixels = image.reshape(len(image), -1).astype(int)
    if np.ptp(pixels, axis=0).mean() < _COLOURED:
        return False
    red, green, blue = pixels // 16  # a ground of one colour may be noisy
    colours = np.bincount(red * 256 + green * 16 + blue)
    return bool(colours.max() <= _PLAIN * pixels.shape[1])
