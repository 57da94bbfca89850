"""Everything a run was made with, as three frozen dataclasses that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from .errors import ConfigError

FUSIONS = ("concat", "tokens", "aligned", "late")
CELLS = ("rnn", "none")
KINDS = ("binary", "multiclass", "steps")

Config = TypeVar("Config", "DataConfig", "ModelConfig", "TrainConfig")


@dataclass(frozen=True)
class DataConfig:
    """How files become tensors. The caps are checked before anything large is decoded."""

    image_size: int = 64  # pixels; every image is resized to a square
    image_channels: int = 3  # 3: RGB, 1: grey
    max_pixels: int = 40_000_000  # an image file of more is refused
    sample_rate: int = 16_000  # Hz; clips at other rates are resampled
    window_ms: float = 32.0  # one Fourier window
    hop_ms: float = 10.0  # from one log-mel frame to the next
    mels: int = 40  # mel bands
    max_seconds: float = 60.0  # a clip of more is refused
    vocabulary: int = 1000  # byte-level BPE tokens, at most
    max_tokens: int = 100  # a text of more is cut
    max_characters: int = 20_000  # a text of more is refused


@dataclass(frozen=True)
class ModelConfig:
    """The network's shape. `modalities` is sorted, so the same names give the same weights."""

    modalities: tuple[str, ...]
    fusion: str = "tokens"  # one of FUSIONS
    kind: str = "binary"  # one of KINDS: what is answered, and with which loss
    outputs: int = 1  # logits a row, or a step
    stream: bool = False  # rows are sequences of steps
    cell: str = "rnn"  # "none": the same readout, with no recurrent layer before it
    width: int = 64  # D: features of each encoder
    hidden: int = 64  # H: the fusing recurrent layer
    conv: tuple[int, ...] = (32, 64)  # output channels of each image stage, which halves its size
    grid: int = 4  # the image's features before flattening: (conv[-1], grid, grid)
    strides: tuple[int, ...] = (2, 2)  # of each audio convolution
    image_channels: int = 3
    mels: int = 40
    vocabulary: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(sorted(self.modalities)))
        object.__setattr__(self, "conv", tuple(self.conv))
        object.__setattr__(self, "strides", tuple(self.strides))
        if not self.modalities:
            raise ConfigError("a model needs at least one of image, audio, text")
        for name, value, choices in (
            ("fusion", self.fusion, FUSIONS),
            ("cell", self.cell, CELLS),
            ("kind", self.kind, KINDS),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is one of {', '.join(choices)}; got {value!r}")
        allowed = ("aligned", "late") if self.stream else ("concat", "tokens", "late")
        if self.fusion not in allowed:
            rows = "are sequences" if self.stream else "are no sequences"
            raise ConfigError(f"where rows {rows}, fusion is one of {', '.join(allowed)}")
        if self.kind == "steps" and not self.stream:
            raise ConfigError("labels a step need rows that are sequences")


@dataclass(frozen=True)
class TrainConfig:
    """Adam, one cycle to `rate`, gradients clipped to the norm `clip`."""

    epochs: int = 10
    batch: int = 32
    rate: float = 2e-3
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ConfigError("epochs and batch are at least 1")
        if not (self.rate > 0 and self.clip > 0):
            raise ConfigError("rate and clip are greater than 0")


@dataclass(frozen=True)
class RunConfig:
    """What config.json in a run folder holds."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    labels: tuple[str, ...]  # label names; an output's index is its label's
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> the manifest's column

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunConfig:
        """The inverse of `to_json`.

        Raises:
            ConfigError: a section or a field is missing or unknown, as from another version.
        """
        try:
            return cls(
                data=_section(DataConfig, value["data"]),
                model=_section(ModelConfig, value["model"]),
                train=_section(TrainConfig, value["train"]),
                labels=tuple(value["labels"]),
                columns=dict(value["columns"]),
            )
        except KeyError as missing:
            raise ConfigError(f"the configuration lacks the section {missing}") from None


def _section(kind: type[Config], values: Mapping[str, Any]) -> Config:
    unknown = sorted(set(values) - {each.name for each in fields(kind)})
    if unknown:
        raise ConfigError(
            f"the configuration has fields this version does not know: {', '.join(unknown)}"
        )
    return kind(**values)
