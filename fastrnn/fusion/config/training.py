"""The options of training, as a frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from ..errors import ConfigError
from .parser import Checked, Help, OneOf, Range

SCHEDULES = ("one-cycle", "cosine", "linear", "constant")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
AUGMENTATIONS = ("auto", "none", "crop", "flip")
BALANCED = "balanced"  # the value of class_weight that means `balance`

Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(above=0, most=1e9)]


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Training with AdamW; gradients are clipped to the norm `max_grad_norm`."""

    epochs: Annotated[
        int,
        Range(0),
        Help("Number of passes over the training rows; 0: 10, or up to 50 on small tables."),
    ] = 0
    batch_size: Annotated[Count, Help("Rows per training step, over all processes.")] = 32
    learning_rate: Annotated[Positive, Help("Learning rate; the maximum of the cycle.")] = 2e-3
    pretrained_learning_rate: Annotated[
        float,
        Range(0, 1e9),
        Help("Learning rate of pretrained weights; 0 for a tenth of learning_rate."),
    ] = 0.0
    cache_features: Annotated[
        bool, Help("Compute the features of frozen pretrained encoders once, before training.")
    ] = True
    schedule: Annotated[
        str, OneOf(SCHEDULES), Help("Learning rate schedule; one-cycle has its own warm-up.")
    ] = "one-cycle"
    warmup_steps: Annotated[
        int, Range(0), Help("Steps in which the learning rate rises from 0; not for one-cycle.")
    ] = 0
    warmup_ratio: Annotated[
        float, Range(0, 1), Help("The same as a share of all steps; give one of the two.")
    ] = 0.0
    weight_decay: Annotated[
        float, Range(0, 1e9), Help("Decoupled weight decay; not of biases and other vectors.")
    ] = 0.01
    max_grad_norm: Annotated[
        float,
        Range(above=0),
        Help("Maximum gradient norm; larger gradients are clipped. inf disables clipping."),
    ] = 1.0
    seed: Annotated[
        int, Help("Seed of the split, the weights, the order of the rows and augmentation.")
    ] = 0
    precision: Annotated[
        str,
        OneOf(PRECISIONS),
        Help("Precision of the computation; auto is bf16 on GPUs that are fast at it, else fp32."),
    ] = "auto"
    gradient_accumulation_steps: Annotated[
        Count, Help("Gradient accumulation: parts per training step, to save memory.")
    ] = 1
    patience: Annotated[
        int,
        Range(0),
        Help("Stop after this many epochs without a better val score; 0 disables it."),
    ] = 0
    balance: Annotated[
        bool, Help("Weight labels by their inverse frequency: --class-weight balanced.")
    ] = False
    class_weight: Annotated[
        tuple[tuple[str, Positive], ...],
        Help("Weights of labels in the loss: balanced, or yes=3,no=1; 1 for the others."),
    ] = ()
    label_smoothing: Annotated[
        float, Range(0, 1), Help("Share of a label that training divides among all labels.")
    ] = 0.0
    augment_images: Annotated[
        str,
        OneOf(AUGMENTATIONS),
        Help("Vary training images: crop shifts, flip also mirrors; auto: coloured photographs."),
    ] = "auto"
    spec_augment: Annotated[
        bool, Help("Mask bands of frequency and time of training clips (SpecAugment).")
    ] = False
    random_silence: Annotated[
        bool, Help("Add up to half a second of silence before and after training clips.")
    ] = True
    freeze: Annotated[
        tuple[str, ...], Help("Parts to keep frozen: encoders by modality or input, fusion, head.")
    ] = ()
    save_every: Annotated[
        float, Range(0), Help("Seconds between checkpoints in an epoch; each epoch ends with one.")
    ] = 60.0

    def __post_init__(self) -> None:
        given = self.class_weight
        if isinstance(given, Mapping):
            pairs = tuple((str(name), weight) for name, weight in given.items())
            object.__setattr__(self, "class_weight", pairs)
        elif isinstance(given, str) and given == BALANCED:
            object.__setattr__(self, "class_weight", ())
            object.__setattr__(self, "balance", True)
        super().__post_init__()
        if self.balance and self.class_weight:
            raise ConfigError("balance and class_weight both set the labels' weights; give one")
        if self.schedule == "one-cycle" and (self.warmup_steps or self.warmup_ratio):
            raise ConfigError(
                "the schedule one-cycle has its own warm-up; omit warmup_steps and warmup_ratio, "
                "or choose cosine, linear or constant"
            )
        if self.warmup_steps and self.warmup_ratio:
            raise ConfigError("warmup_steps and warmup_ratio both set the warm-up; give one")
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"batch_size {self.batch_size} must be a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )
