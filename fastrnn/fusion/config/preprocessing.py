"""How an encoder's files become arrays, where the options of a fit do not decide it.

Pretrained encoders declare it, and so may the class of a custom encoder:

    class MyEncoder(nn.Module):
        preprocessing = ImagePreprocessing(height=96, width=96)

The declarations are saved in processor_config.json, so no encoder is needed to read files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..errors import ConfigError
from .parser import Checked, OneOf, Range, parse

RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # as Pillow's numbers
EXTRACTORS = ("ASTFeatureExtractor", "WhisperFeatureExtractor")

# The settings that decide how much memory an extractor takes, and the most of each
_EXTRACTOR_SIZES = {
    "chunk_length": 60,  # seconds
    "feature_size": 1024,  # bands
    "max_length": 10_000,  # frames
    "n_fft": 16_384,  # samples
    "num_mel_bins": 1024,  # bands
    "sampling_rate": 384_000,
}

_Side = Annotated[int, Range(1, 4096)]  # pixels
_Count = Annotated[int, Range(1, 10_000_000)]


@dataclass(frozen=True)
class ImagePreprocessing(Checked):
    """Images become uint8 [C, height, width].

    Attributes:
        shortest_edge: resize the shorter side to this and crop the centre; 0 to resize both sides,
            ignoring the aspect ratio.
        resample: Pillow's filter.
        crop_offset: how half a pixel of the crop's offset is rounded: "down" as in transformers,
            or to an "even" number as in torchvision.
    """

    height: _Side
    width: _Side
    channels: Annotated[int, OneOf((1, 3))] = 3
    shortest_edge: Annotated[int, Range(0, 4096)] = 0
    resample: Annotated[str, OneOf(RESAMPLING)] = "bilinear"
    crop_offset: Annotated[str, OneOf(("down", "even"))] = "down"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest_edge and self.shortest_edge < max(self.height, self.width):
            raise ConfigError(
                f"shortest_edge is {self.shortest_edge}, less than the crop of "
                f"{self.height}×{self.width} pixels"
            )


@dataclass(frozen=True)
class TextPreprocessing(Checked):
    """Texts become ids of a tokenizer's own, with its special tokens.

    Attributes:
        tokenizer: the path of its tokenizer.json; "" in a saved run, which contains a copy.
        max_tokens: the most tokens that the encoder reads; the option max_tokens may be less.
    """

    tokenizer: str = ""
    max_tokens: _Count = 512


@dataclass(frozen=True)
class AudioPreprocessing(Checked):
    """Clips become waveforms, float32 [samples], or frames, float32 [F, bands].

    Attributes:
        sampling_rate: in Hz.
        normalise: whether a waveform gets zero mean and unit variance.
        extractor: the configuration of a feature extractor of transformers, one of EXTRACTORS,
            that computes the frames; empty for waveforms.
        bands: the size of a frame; 0 for waveforms.
    """

    sampling_rate: Annotated[int, Range(1, 384_000)] = 16_000
    normalise: bool = False
    extractor: Mapping[str, Any] = field(default_factory=dict)
    bands: Annotated[int, Range(0, 4096)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.extractor.get("feature_extractor_type")
        if self.extractor and kind not in EXTRACTORS:
            raise ConfigError(
                f"feature_extractor_type must be one of {', '.join(EXTRACTORS)}; got {kind!r}"
            )
        for name, most in _EXTRACTOR_SIZES.items():
            if name in self.extractor:
                parse(Annotated[int, Range(1, most)], self.extractor[name], f"extractor.{name}")
        if bool(self.extractor) != bool(self.bands):
            raise ConfigError("an extractor needs the number of its bands, and only an extractor")


@dataclass(frozen=True)
class Preprocessing(Checked):
    """The preprocessing of one input: the declaration of its modality."""

    image: ImagePreprocessing | None = None
    text: TextPreprocessing | None = None
    audio: AudioPreprocessing | None = None

    @classmethod
    def of(cls, modality: str, declared: Any) -> Preprocessing:
        """Return the preprocessing that an encoder declares.

        Raises:
            ConfigError: the declaration is of another modality, or is none.
        """
        if isinstance(declared, Preprocessing):
            return declared
        kinds: dict[str, Any] = {
            "image": ImagePreprocessing,
            "text": TextPreprocessing,
            "audio": AudioPreprocessing,
        }
        if modality not in kinds or not isinstance(declared, kinds[modality]):
            known = ", ".join(each.__name__ for each in kinds.values())
            raise ConfigError(
                f"the preprocessing of an encoder of {modality} cannot be a "
                f"{type(declared).__name__}; declare one of {known} for its modality"
            )
        values: dict[str, Any] = {modality: declared}
        return cls(**values)
