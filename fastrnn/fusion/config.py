"""Everything a run was made with, as three frozen dataclasses that JSON can hold.

Each field's type and range are checked, whoever gave the value: a caller, or a stranger's file.
Upper bounds only keep a mistake, or malice, from taking all memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from .errors import ConfigError
from .schema import AtMost, Checked, OneOf, Range, from_json

FUSIONS = ("concat", "tokens", "parallel", "init", "aligned", "late")
CELLS = ("rnn", "lstm", "gru", "none")
KINDS = ("binary", "multiclass", "multilabel", "regression", "steps")
SCHEDULES = ("one-cycle", "constant")
PRECISIONS = ("fp32", "bf16", "fp16")
MODALITIES = ("audio", "image", "series", "text")
BLOCK = 1024  # rows that a prediction has in memory at once

Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(above=0, most=1e9)]
Moment = Annotated[float, Range(-1e38, 1e38)]  # a mean or a deviation; finite in float32
Tokens = Annotated[int, Range(0, 10_000_000)]
Features = Annotated[int, Range(1, 65_536)]  # features or channels of one layer
Mels = Annotated[int, Range(1, 1024)]
Side = Annotated[int, Range(1, 4096)]  # pixels
Channels = Annotated[int, OneOf((1, 3))]
_STAGES = AtMost(16)  # convolutions that follow each other


@dataclass(frozen=True)
class DataConfig(Checked):
    """How files become tensors. The caps are checked before anything large is decoded."""

    image_size: Side = 64  # every image is resized to a square
    image_channels: Channels = 3  # 3: RGB, 1: grey
    max_pixels: Count = 40_000_000  # an image file of more is refused
    sample_rate: Annotated[int, Range(1, 384_000)] = 16_000  # Hz; other clips are resampled
    window_ms: Annotated[float, Range(above=0, most=1000)] = 32.0  # one Fourier window
    hop_ms: Annotated[float, Range(above=0, most=1000)] = 10.0  # from one log-mel frame to the next
    mels: Mels = 40  # mel bands
    max_seconds: Positive = 60.0  # a clip of more is refused
    vocabulary: Tokens = 1000  # byte-level BPE tokens, at most
    max_tokens: Count = 100  # a text of more is cut
    max_characters: Count = 20_000  # a text of more is refused
    max_series: Count = 1_000_000  # a numeric series of more numbers is refused

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("window_ms", 65_536), ("hop_ms", math.inf)):
            samples = round(self.sample_rate * getattr(self, name) / 1000)
            if not 1 <= samples <= most:
                raise ConfigError(
                    f"{name} is {samples:,} samples at {self.sample_rate:,} Hz, and must be at "
                    f"least 1{f' and at most {most:,}' if most < math.inf else ''}"
                )


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The network's shape. `modalities` is sorted, so the same names give the same weights."""

    modalities: tuple[Annotated[str, OneOf(MODALITIES)], ...]
    fusion: Annotated[str, OneOf(FUSIONS)] = "tokens"
    kind: Annotated[str, OneOf(KINDS)] = "binary"  # what is answered, and with which loss
    outputs: Annotated[int, Range(1, 10_000_000)] = 1  # logits a row, or a step
    stream: bool = False  # rows are sequences of steps
    cell: Annotated[str, OneOf(CELLS)] = "rnn"  # "none": the same readout, no recurrent layer
    width: Features = 64  # D: features of each encoder
    hidden: Features = 64  # H: the fusing recurrent layer
    # Output channels of each image stage, which halves its size.
    conv: Annotated[tuple[Features, ...], _STAGES] = (32, 64)
    # The image's features before flattening: (conv[-1], grid, grid); 0: all of them.
    grid: Annotated[int, Range(0, 256)] = 4
    image_steps: bool = False  # the image is a sequence of grid² tokens instead of one vector
    # Of each convolution over audio or a numeric series.
    strides: Annotated[tuple[Annotated[int, Range(1, 1024)], ...], _STAGES] = (2, 2)
    image_size: Side = 64
    image_channels: Channels = 3
    mels: Mels = 40
    vocabulary: Tokens = 0
    variables: Annotated[int, Range(0, 1_000_000)] = 0  # of a numeric series
    missing: tuple[str, ...] = ()  # modalities that a row may lack: a learned token stands in
    # How often, in training, a modality is taken for missing.
    modality_dropout: Annotated[float, Range(0, 1)] = 0.0
    encoders: tuple[tuple[str, str], ...] = ()  # modality -> a name of the registry, not its own
    normalise: bool = False  # concat: LayerNorm of each modality's features first

    def __post_init__(self) -> None:
        if isinstance(self.encoders, Mapping):
            object.__setattr__(self, "encoders", tuple(self.encoders.items()))
        super().__post_init__()
        for name in ("modalities", "missing", "encoders"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        if not self.modalities:
            raise ConfigError(f"a model needs at least one of {', '.join(MODALITIES)}")
        allowed = (
            ("aligned", "late") if self.stream else tuple(f for f in FUSIONS if f != "aligned")
        )
        if self.fusion not in allowed:
            rows = "are sequences" if self.stream else "are no sequences"
            raise ConfigError(f"where rows {rows}, fusion is one of {', '.join(allowed)}")
        if self.kind == "steps" and not self.stream:
            raise ConfigError("labels a step need rows that are sequences")
        if self.modality_dropout == 1:
            raise ConfigError("modality_dropout is less than 1: rows keep something")
        if self.modality_dropout and len(self.modalities) < 2:
            raise ConfigError("modality_dropout needs at least two modalities")


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Adam, gradients clipped to the norm `clip`."""

    epochs: Count = 10
    batch: Count = 32  # rows of an optimizer's step, over all processes and accumulated batches
    rate: Positive = 2e-3  # the learning rate: the cycle's highest
    schedule: Annotated[str, OneOf(SCHEDULES)] = "one-cycle"
    clip: Annotated[float, Range(above=0)] = 1.0  # infinity clips nothing
    seed: int = 0
    precision: Annotated[str, OneOf(PRECISIONS)] = "fp32"  # what the network computes in
    accumulate: Count = 1  # batches whose gradients make one step
    # Epochs without a better val score after which training stops; 0: never.
    patience: Annotated[int, Range(0)] = 0
    balance: bool = False  # weigh labels by the inverse of how often they occur
    freeze: tuple[str, ...] = ()  # parts that keep their weights: encoders by name, fusion, head
    save_every: Annotated[float, Range(0)] = 60.0  # seconds; an epoch in progress is saved too

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch % self.accumulate:
            raise ConfigError(f"batch {self.batch} is no multiple of accumulate {self.accumulate}")


@dataclass(frozen=True)
class RunConfig(Checked):
    """What config.json in a run folder holds."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    labels: tuple[str, ...]  # label names; an output's index is its label's
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> the manifest's column
    manifest: str = ""  # the path of the table that it was trained on
    root: str = ""  # the folder that paths in it are relative to
    target: tuple[Moment, Moment] | None = None  # regression: mean and deviation in training
    series: tuple[tuple[Moment, Moment], ...] = ()  # the same of each variable of a numeric series

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> RunConfig:
        """The inverse of `to_json`.

        Raises:
            ConfigError: a field is missing, unknown (as from another version), of another type or
                out of its range.
        """
        return from_json(cls, value)
