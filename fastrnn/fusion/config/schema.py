"""The configuration of a run, as frozen dataclasses that can be serialised to JSON.

Each field's type and range are checked, whether the value comes from a caller or from an untrusted
file. Upper bounds only prevent a mistake, or a malicious file, from exhausting memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from ..errors import ConfigError
from .parser import AtMost, Checked, OneOf, Range, from_json

FUSIONS = ("concat", "tokens", "parallel", "init", "aligned", "late")
CELLS = ("rnn", "lstm", "gru", "none")
PROBLEM_TYPES = ("binary", "multiclass", "multilabel", "regression", "steps")
SCHEDULES = ("one-cycle", "constant")
PRECISIONS = ("fp32", "bf16", "fp16")
CACHES = ("memory", "disk", "none")
MODALITIES = ("audio", "image", "series", "text")
BLOCK = 1024  # rows that `predict` keeps in memory at once

Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(above=0, most=1e9)]
Moment = Annotated[float, Range(-1e38, 1e38)]  # a mean or a standard deviation; finite in float32
Tokens = Annotated[int, Range(0, 10_000_000)]
Features = Annotated[int, Range(1, 65_536)]  # features or channels of one layer
Mels = Annotated[int, Range(1, 1024)]
Side = Annotated[int, Range(1, 4096)]  # pixels
Channels = Annotated[int, OneOf((1, 3))]
_STAGES = AtMost(16)  # consecutive convolutions


@dataclass(frozen=True)
class DataConfig(Checked):
    """How files become tensors. The limits are checked before anything large is decoded."""

    image_size: Side = 64  # every image is resized to a square
    image_channels: Channels = 3  # 3: RGB, 1: grey
    max_pixels: Count = 40_000_000  # a larger image file is rejected
    sample_rate: Annotated[int, Range(1, 384_000)] = 16_000  # Hz; other clips are resampled
    window_ms: Annotated[float, Range(above=0, most=1000)] = 32.0  # one Fourier window
    hop_ms: Annotated[float, Range(above=0, most=1000)] = 10.0  # between consecutive log-mel frames
    mels: Mels = 40  # mel bands
    max_seconds: Positive = 60.0  # a longer clip is rejected
    vocabulary: Tokens = 1000  # byte-level BPE tokens, at most
    max_tokens: Count = 100  # a longer text is truncated
    max_characters: Count = 20_000  # a longer text is rejected
    max_series: Count = 1_000_000  # values of a numeric series; a longer one is rejected

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("window_ms", 65_536), ("hop_ms", math.inf)):
            samples = round(self.sample_rate * getattr(self, name) / 1000)
            if not 1 <= samples <= most:
                raise ConfigError(
                    f"{name} is {samples:,} samples at {self.sample_rate:,} Hz, but must be at "
                    f"least 1{f' and at most {most:,}' if most < math.inf else ''}"
                )


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The network's architecture.

    `modalities` is sorted, so that the same set of names gives the same weights.
    """

    modalities: tuple[Annotated[str, OneOf(MODALITIES)], ...]
    fusion: Annotated[str, OneOf(FUSIONS)] = "tokens"
    problem_type: Annotated[str, OneOf(PROBLEM_TYPES)] = (
        "binary"  # what is predicted, and with which loss
    )
    outputs: Annotated[int, Range(1, 10_000_000)] = 1  # logits per row, or per step
    stream: bool = False  # rows are sequences of steps
    cell: Annotated[str, OneOf(CELLS)] = "rnn"  # "none": the same readout without a recurrent layer
    width: Features = 64  # D: features of each encoder
    hidden: Features = 64  # H: size of the fusing recurrent layer
    # Output channels of each image stage; a stage halves the size.
    conv: Annotated[tuple[Features, ...], _STAGES] = (32, 64)
    # The image's features before flattening: (conv[-1], grid, grid); 0: all of them.
    grid: Annotated[int, Range(0, 256)] = 4
    image_steps: bool = False  # encode the image as grid² steps instead of one vector
    # Strides of the convolutions over audio or a numeric series.
    strides: Annotated[tuple[Annotated[int, Range(1, 1024)], ...], _STAGES] = (2, 2)
    image_size: Side = 64
    image_channels: Channels = 3
    mels: Mels = 40
    vocabulary: Tokens = 0
    variables: Annotated[int, Range(0, 1_000_000)] = 0  # K of a numeric series
    missing: tuple[str, ...] = ()  # modalities that rows may lack; a learned token replaces them
    # Probability that a modality is dropped from a row in training.
    modality_dropout: Annotated[float, Range(0, 1)] = 0.0
    encoders: tuple[tuple[str, str], ...] = ()  # modality -> registered name of its encoder
    normalise: bool = False  # concat: apply LayerNorm to each modality's features first

    def __post_init__(self) -> None:
        if isinstance(self.encoders, Mapping):
            object.__setattr__(self, "encoders", tuple(self.encoders.items()))
        super().__post_init__()
        for name in ("modalities", "missing", "encoders"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        if not self.modalities:
            raise ConfigError(f"modalities must contain at least one of {', '.join(MODALITIES)}")
        allowed = (
            ("aligned", "late") if self.stream else tuple(f for f in FUSIONS if f != "aligned")
        )
        if self.fusion not in allowed:
            rows = "sequences" if self.stream else "not sequences"
            raise ConfigError(f"rows are {rows}, so fusion must be one of {', '.join(allowed)}")
        if self.problem_type == "steps" and not self.stream:
            raise ConfigError("the problem type steps needs rows that are sequences of steps")
        if self.modality_dropout == 1:
            raise ConfigError("modality_dropout must be less than 1, so that rows keep some input")
        if self.modality_dropout and len(self.modalities) < 2:
            raise ConfigError("modality_dropout needs at least two modalities")


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Training with Adam; gradients are clipped to the norm `max_grad_norm`."""

    epochs: Count = 10
    batch_size: Count = 32  # rows per optimizer step, over all processes and accumulated batches
    learning_rate: Positive = 2e-3  # the learning rate; the maximum of a one-cycle schedule
    schedule: Annotated[str, OneOf(SCHEDULES)] = "one-cycle"
    max_grad_norm: Annotated[float, Range(above=0)] = 1.0  # inf disables clipping
    seed: int = 0
    precision: Annotated[str, OneOf(PRECISIONS)] = "fp32"  # dtype of the network's computation
    gradient_accumulation_steps: Count = 1  # batches accumulated for one optimizer step
    # Stop after this many epochs without a better validation score; 0: never.
    patience: Annotated[int, Range(0)] = 0
    balance: bool = False  # weight labels by their inverse frequency
    freeze: tuple[str, ...] = ()  # parts to freeze: encoders by name, fusion, head
    save_every: Annotated[float, Range(0)] = 60.0  # seconds between checkpoints within an epoch

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"batch_size {self.batch_size} must be a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )


@dataclass(frozen=True)
class LoaderConfig(Checked):
    """How files are read. Except for rows that are skipped, it does not change results."""

    on_bad_row: Annotated[str, OneOf(("error", "skip"))] = "error"
    check: bool = False  # decode every file before training
    num_workers: Annotated[int, Range(0, 1024)] = 0  # processes that decode files
    cache: Annotated[str, OneOf(CACHES)] = "memory"  # where decoded files are kept
    cache_size: Annotated[int, Range(0, 1_000_000)] = 256  # MB of a memory cache


@dataclass(frozen=True)
class FitConfig(Checked):
    """All options of a fit."""

    data: DataConfig = field(default_factory=DataConfig)
    # Fields of ModelConfig that the caller sets; the others follow from the data.
    model: Mapping[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    loading: LoaderConfig = field(default_factory=LoaderConfig)
    baselines: bool = True  # also train the baselines
    # The folder of a run whose weights the model starts from, where names and shapes agree.
    init_from: str | None = None
    report_to: tuple[str, ...] = ()  # trackers: tensorboard, wandb, mlflow


@dataclass(frozen=True)
class RunConfig(Checked):
    """The content of config.json in a run's folder."""

    model: ModelConfig
    train: TrainConfig
    models: tuple[str, ...] = ()  # the names of the run's networks; the first is the main one
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> column of the manifest
    manifest: str = ""  # path of the training table
    root: str = ""  # folder that its paths are relative to

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> RunConfig:
        """Create a configuration from JSON values; the inverse of `to_json`.

        Raises:
            ConfigError: a field is missing, unknown (as from another version), of the wrong type,
                or out of range.
        """
        return from_json(cls, value)
