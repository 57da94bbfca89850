"""The configuration of a run, as frozen dataclasses that can be serialised to JSON.

Each field's type and range are checked, whether the value comes from a caller or from an untrusted
file. Upper bounds only prevent a mistake, or a malicious file, from exhausting memory.

A field with a Help is an option of `fastrnn fit`. The other fields follow from the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from typing import Annotated, Any

from ..errors import ConfigError
from .inputs import MODALITIES, InputName, modality_of
from .parser import AtMost, Checked, Help, OneOf, Range
from .pretrained import Finetuning, PretrainedConfig, without_folders
from .training import TrainConfig as TrainConfig

FUSIONS = ("concat", "tokens", "parallel", "init", "aligned", "late")
CELLS = ("rnn", "lstm", "gru", "none")
PROBLEM_TYPES = ("binary", "multiclass", "multilabel", "regression", "steps")
POOLINGS = ("mean", "max", "attention", "state")
CACHES = ("memory", "disk", "none")
MAX_CATEGORIES = 1000  # of a tabular column; rarer ones count as unseen
# Rows of a forward pass without gradients. With 256, one clip of a minute among clips of seconds,
# which are padded to its length, took 6 GB.
BATCH_SIZE = 64
BLOCK = 1024  # rows that `predict` keeps in memory at once

Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(above=0, most=1e9)]
Moment = Annotated[float, Range(-1e38, 1e38)]  # a mean; finite in float32
Deviation = Annotated[float, Range(above=0, most=1e38)]  # a standard deviation to divide by
Tokens = Annotated[int, Range(0, 10_000_000)]
Features = Annotated[int, Range(1, 65_536)]  # features or channels of one layer
Mels = Annotated[int, Range(1, 1024)]
Side = Annotated[int, Range(1, 4096)]  # pixels
Channels = Annotated[int, OneOf((1, 3))]
Variables = Annotated[int, Range(0, 1_000_000)]
_STAGES = AtMost(16)  # consecutive convolutions


@dataclass(frozen=True)
class DataConfig(Checked):
    """How files become tensors. The limits are checked before anything large is decoded."""

    image_size: Annotated[
        Side, Help("Side length in pixels; images are resized to squares.", minimum=8)
    ] = 64
    image_channels: Annotated[Channels, Help("Image channels: 3 for RGB, 1 for grey.")] = 3
    max_pixels: Annotated[
        Count, Help("Maximum number of pixels; larger images are rejected undecoded.")
    ] = 40_000_000
    sample_rate: Annotated[
        int, Range(1, 384_000), Help("Sampling rate in Hz; clips with other rates are resampled.")
    ] = 16_000
    window_ms: Annotated[
        float, Range(above=0, most=1000), Help("Length of the Fourier window in milliseconds.")
    ] = 32.0
    hop_ms: Annotated[
        float, Range(above=0, most=1000), Help("Hop between log-mel frames in milliseconds.")
    ] = 10.0
    mels: Annotated[Mels, Help("Number of mel bands.")] = 40
    max_seconds: Annotated[
        Positive, Help("Maximum clip length in seconds; longer clips are rejected undecoded.")
    ] = 60.0
    vocabulary: Annotated[
        Tokens, Help("Maximum number of tokens learned from the training texts.", minimum=256)
    ] = 1000
    max_tokens: Annotated[Count, Help("Maximum tokens; longer texts are truncated.")] = 100
    ngrams: Annotated[
        Tokens, Help("Number of buckets of the hashed character n-grams of texts; 0 omits them.")
    ] = 8192
    max_characters: Annotated[
        Count, Help("Maximum number of characters; longer texts are rejected.")
    ] = 20_000
    max_series: Annotated[
        Count, Help("Maximum numbers in a numeric series; longer series are rejected.")
    ] = 1_000_000
    max_file_size: Annotated[
        int,
        Range(1, 1_000_000),
        Help(
            "Maximum MB of a remote file or a member of a shard; larger ones are rejected unread."
        ),
    ] = 256

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

    `modalities` are the names of the inputs (inputs.py), sorted, so that the same set of names
    gives the same weights.
    """

    modalities: tuple[Annotated[str, InputName()], ...]
    fusion: Annotated[
        str,
        OneOf(FUSIONS),
        Help("Fusion of the modalities; auto is aligned for streams, else tokens.", auto=True),
    ] = "tokens"
    problem_type: Annotated[str, OneOf(PROBLEM_TYPES)] = "binary"  # what is predicted
    outputs: Annotated[int, Range(1, 10_000_000)] = 1  # logits per row, or per step
    stream: bool = False  # rows are sequences of steps
    cell: Annotated[
        str, OneOf(CELLS), Help("Cell of the recurrent layers; none omits the fusing one.")
    ] = "rnn"
    width: Annotated[Features, Help("Number of features of each encoder.")] = 64
    hidden: Annotated[Features, Help("Hidden size of the fusing recurrent layer.")] = 64
    conv: Annotated[
        tuple[Features, ...],
        _STAGES,
        Help("Channels of each image stage, for example 32,64; a stage halves the size."),
    ] = (32, 64)
    # With a grid, the image's features have the shape (conv[-1], grid, grid).
    grid: Annotated[
        int,
        Range(0, 256),
        Help("Pool the last image stage to grid × grid features; 0 keeps all of them."),
    ] = 4
    image_steps: Annotated[
        bool, Help("Read an image as a sequence of grid² steps, not as one vector.")
    ] = False
    strides: Annotated[
        tuple[Annotated[int, Range(1, 1024)], ...],
        _STAGES,
        Help("Strides of the convolutions over audio or numeric series, as in 2,2."),
    ] = (2, 2)
    pooling: Annotated[
        tuple[Annotated[str, OneOf(POOLINGS)], ...],
        Help(
            "Pooling of audio, texts and series over time: mean, max, attention, state; images "
            "have the mean and max of their stages."
        ),
    ] = POOLINGS
    unimodal_heads: Annotated[
        bool, Help("Add a linear readout of each input to the logits of the fusion.")
    ] = True
    dropout: Annotated[
        float, Range(0, 1), Help("Dropout of the features that the fusion reads, in training.")
    ] = 0.0
    image_size: Side = 64
    image_channels: Channels = 3
    mels: Mels = 40
    vocabulary: Tokens = 0
    ngrams: Tokens = 0
    variables: Variables = 0  # K of the only numeric series
    series_variables: tuple[tuple[str, Variables], ...] = ()  # K of each of several
    numbers: Annotated[int, Range(0, 1_000_000)] = 0  # N, the numeric features of tabular columns
    categories: tuple[Annotated[int, Range(0, MAX_CATEGORIES)], ...] = ()  # of each such column
    missing: tuple[str, ...] = ()  # inputs that rows may lack; a learned token replaces them
    modality_dropout: Annotated[
        float, Range(0, 1), Help("Probability of dropping a modality of a row in training.")
    ] = 0.0
    encoders: Annotated[
        tuple[tuple[str, str], ...],
        Help(
            "Encoders by modality or input: image=timm:FOLDER, text:title=transformers:FOLDER, or "
            "a class of yours, package.module:Class."
        ),
    ] = ()
    finetune: Annotated[
        tuple[tuple[str, Annotated[str, Finetuning()]], ...],
        Help(
            "Training of pretrained encoders: frozen (the default), lora, last-N for the last N "
            "blocks, or full: image=last-2,text=lora."
        ),
    ] = ()
    lora_rank: Annotated[int, Range(1, 1024), Help("Rank of the adapters of finetune lora.")] = 8
    pretrained: tuple[tuple[str, PretrainedConfig], ...] = ()  # by the names in `encoders`
    share: Annotated[
        tuple[Annotated[str, OneOf(MODALITIES)], ...],
        Help("Modalities whose columns share one encoder: image,text."),
    ] = ()
    normalise: Annotated[
        bool, Help("Fusion concat: apply LayerNorm to the features of each modality.")
    ] = False

    def __post_init__(self) -> None:
        for name in ("encoders", "finetune", "pretrained"):
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, tuple(getattr(self, name).items()))
        super().__post_init__()
        for name in ("modalities", "missing", "encoders", "finetune", "series_variables", "share"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        object.__setattr__(self, "pretrained", tuple(sorted(self.pretrained, key=itemgetter(0))))
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
        if not self.pooling or len(set(self.pooling)) < len(self.pooling):
            raise ConfigError(f"pooling must name some of {', '.join(POOLINGS)}, each once")
        if self.dropout == 1:
            raise ConfigError("dropout must be less than 1, so that features remain")
        if self.modality_dropout == 1:
            raise ConfigError("modality_dropout must be less than 1, so that rows keep some input")
        if self.modality_dropout and len(self.modalities) < 2:
            raise ConfigError("modality_dropout needs at least two modalities")
        if self.share and self.fusion == "late":
            raise ConfigError("fusion late has a model for each column, so omit share")

    def variables_of(self, name: str) -> int:
        """Return the number of variables of a series."""
        return dict(self.series_variables).get(name, self.variables)

    def encoder_of(self, name: str) -> str:
        """Return the name of an input's encoder: that of its modality if its columns share one."""
        modality = modality_of(name)
        return modality if modality in self.share else name

    def pretrained_of(self, name: str) -> PretrainedConfig | None:
        """Return the pretrained encoder of an input, or of a modality whose columns share one."""
        named = dict(self.pretrained)
        encoders = dict(self.encoders)
        key = name if name in encoders else modality_of(name)
        return named.get(key)

    def vocabulary_of(self, name: str) -> int:
        """Return the number of tokens of a text."""
        found = self.pretrained_of(self.encoder_of(name))
        return self.vocabulary if found is None else found.vocabulary


@dataclass(frozen=True)
class LoaderConfig(Checked):
    """How files are read. Except for rows that are skipped, it does not change results."""

    on_bad_row: Annotated[
        str,
        OneOf(("error", "skip")),
        Help("error: stop at a row that cannot be used; skip: check all files, continue without."),
    ] = "error"
    check: Annotated[bool, Help("Decode every file before training.")] = False
    num_workers: Annotated[
        int,
        Range(0, 1024),
        Help("Processes that decode files; 0: decode in the main process."),
    ] = 0
    cache: Annotated[
        str,
        OneOf(CACHES),
        Help("Keep decoded files in memory, on disk, or decode them in each epoch."),
    ] = "memory"
    cache_size: Annotated[
        int,
        Range(0, 1_000_000),
        Help("Most MB of decoded files in memory; the others are decoded in each epoch."),
    ] = 128

    def __post_init__(self) -> None:
        if self.cache is None:
            object.__setattr__(self, "cache", "none")
        super().__post_init__()


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
    folds: Annotated[int, Range(0, 1000)] = 0  # also cross-validate, with this many folds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds == 1:
            raise ConfigError("folds must be at least 2, or 0 for no cross-validation; got 1")


@dataclass(frozen=True)
class RunConfig(Checked):
    """The content of config.json in a run's folder."""

    model: ModelConfig
    train: TrainConfig
    models: tuple[str, ...] = ()  # the names of the run's networks; the first is the main one
    columns: Mapping[str, str] = field(default_factory=dict)  # input or role -> column
    manifest: str = ""  # path of the training table
    root: str = ""  # folder that its paths are relative to
    # Binary: the probability above which `predict` chooses the second label.
    threshold: Annotated[float, Range(0, 1)] = 0.5

    def without_places(self) -> RunConfig:
        """Remove the places of the table and of weights: private, and useless elsewhere."""
        model = replace(self.model, encoders=without_folders(self.model.encoders))
        return replace(self, model=model, manifest="", root="")

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)
