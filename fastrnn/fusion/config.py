"""Everything a run was made with, as three frozen dataclasses that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from .errors import ConfigError

FUSIONS = ("concat", "tokens", "parallel", "init", "aligned", "late")
CELLS = ("rnn", "lstm", "gru", "none")
KINDS = ("binary", "multiclass", "multilabel", "regression", "steps")
SCHEDULES = ("one-cycle", "constant")
PRECISIONS = ("fp32", "bf16", "fp16")
MODALITIES = ("audio", "image", "series", "text")

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
    max_series: int = 1_000_000  # a numeric series of more numbers is refused


@dataclass(frozen=True)
class ModelConfig:
    """The network's shape. `modalities` is sorted, so the same names give the same weights."""

    modalities: tuple[str, ...]
    fusion: str = "tokens"  # one of FUSIONS
    kind: str = "binary"  # one of KINDS: what is answered, and with which loss
    outputs: int = 1  # logits a row, or a step
    stream: bool = False  # rows are sequences of steps
    cell: str = "rnn"  # one of CELLS; "none": the same readout, with no recurrent layer before it
    width: int = 64  # D: features of each encoder
    hidden: int = 64  # H: the fusing recurrent layer
    conv: tuple[int, ...] = (32, 64)  # output channels of each image stage, which halves its size
    grid: int = 4  # the image's features before flattening: (conv[-1], grid, grid); 0: all of them
    image_steps: bool = False  # the image is a sequence of grid² tokens instead of one vector
    strides: tuple[int, ...] = (2, 2)  # of each convolution over audio or a numeric series
    image_size: int = 64
    image_channels: int = 3
    mels: int = 40
    vocabulary: int = 0
    variables: int = 0  # of a numeric series
    missing: tuple[str, ...] = ()  # modalities that a row may lack: a learned token stands in
    modality_dropout: float = 0.0  # how often, in training, a modality is taken for missing
    encoders: tuple[tuple[str, str], ...] = ()  # modality -> a name of the registry, not its own
    normalise: bool = False  # concat: LayerNorm of each modality's features first

    def __post_init__(self) -> None:
        for name in ("modalities", "missing"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        for name in ("conv", "strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "encoders", tuple(sorted((a, b) for a, b in self.encoders)))
        if not self.modalities:
            raise ConfigError(f"a model needs at least one of {', '.join(MODALITIES)}")
        for name, value, choices in (
            ("fusion", self.fusion, FUSIONS),
            ("cell", self.cell, CELLS),
            ("kind", self.kind, KINDS),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is one of {', '.join(choices)}; got {value!r}")
        allowed = (
            ("aligned", "late") if self.stream else tuple(f for f in FUSIONS if f != "aligned")
        )
        if self.fusion not in allowed:
            rows = "are sequences" if self.stream else "are no sequences"
            raise ConfigError(f"where rows {rows}, fusion is one of {', '.join(allowed)}")
        if self.kind == "steps" and not self.stream:
            raise ConfigError("labels a step need rows that are sequences")
        if not 0 <= self.modality_dropout < 1:
            raise ConfigError("modality_dropout is at least 0 and less than 1")
        if self.modality_dropout and len(self.modalities) < 2:
            raise ConfigError("modality_dropout needs at least two modalities")


@dataclass(frozen=True)
class TrainConfig:
    """Adam, gradients clipped to the norm `clip`."""

    epochs: int = 10
    batch: int = 32  # rows of an optimizer's step, over all processes and accumulated batches
    rate: float = 2e-3  # the learning rate: the cycle's highest
    schedule: str = "one-cycle"  # one of SCHEDULES
    clip: float = 1.0
    seed: int = 0
    precision: str = "fp32"  # one of PRECISIONS: what the network computes in
    accumulate: int = 1  # batches whose gradients make one step
    patience: int = 0  # epochs without a better val score after which training stops; 0: never
    balance: bool = False  # weigh labels by the inverse of how often they occur
    freeze: tuple[str, ...] = ()  # parts that keep their weights: encoders by name, fusion, head
    save_every: float = 60.0  # seconds after which an epoch in progress is saved too

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", tuple(self.freeze))
        if self.epochs < 1 or self.batch < 1 or self.accumulate < 1:
            raise ConfigError("epochs, batch and accumulate are at least 1")
        if self.batch % self.accumulate:
            raise ConfigError(f"batch {self.batch} is no multiple of accumulate {self.accumulate}")
        if self.patience < 0:
            raise ConfigError("patience is at least 0")
        if not (self.rate > 0 and self.clip > 0):
            raise ConfigError("rate and clip are greater than 0")
        for name, value, choices in (
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is one of {', '.join(choices)}; got {value!r}")


@dataclass(frozen=True)
class RunConfig:
    """What config.json in a run folder holds."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    labels: tuple[str, ...]  # label names; an output's index is its label's
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> the manifest's column
    manifest: str = ""  # the path of the table that it was trained on
    root: str = ""  # the folder that paths in it are relative to
    target: tuple[float, float] | None = None  # regression: mean and deviation in training
    series: tuple[tuple[float, float], ...] = ()  # the same of each variable of a numeric series

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
                manifest=value.get("manifest", ""),
                root=value.get("root", ""),
                target=None if value.get("target") is None else tuple(value["target"]),
                series=tuple((mean, deviation) for mean, deviation in value.get("series", ())),
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
