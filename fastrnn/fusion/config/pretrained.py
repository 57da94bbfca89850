"""The architecture of a pretrained encoder, as saved in a run's config.json.

It is complete, so that a run is loaded without the folder that the weights came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from .parser import Checked, OneOf, Range
from .preprocessing import Preprocessing

LIBRARIES = ("timm", "transformers")
# Architectures of transformers whose output is known, by modality. No other class is created: some
# download or execute code that their configuration names.
ARCHITECTURES = {
    "audio": ("audio-spectrogram-transformer", "hubert", "wav2vec2", "wavlm", "whisper"),
    "image": (
        "beit", "convnext", "convnextv2", "deit", "dinov2", "dinov2_with_registers", "resnet",
        "siglip_vision_model", "vit",
    ),
    "text": (
        "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta",
        "xlm-roberta",
    ),
}  # fmt: skip


class Finetuning:
    """How much of a pretrained encoder is trained."""

    def allows(self, value: str) -> bool:
        return re.fullmatch(r"frozen|lora|full|last-[1-9]\d{0,3}", value) is not None

    def __str__(self) -> str:
        return "frozen, lora, full, or last-N for the last N blocks, as in last-2"


@dataclass(frozen=True)
class PretrainedConfig(Checked):
    """A pretrained encoder.

    Attributes:
        architecture: its config.json.
        mean, std: by which images are normalised, after a division by 255.
        pool: how steps become a vector: the first one, or their mean.
        finetune: which of its weights are trained.
        lora_rank: the rank of the adapters of "lora".
    """

    library: Annotated[str, OneOf(LIBRARIES)]
    architecture: Mapping[str, Any]
    preprocessing: Preprocessing
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Range(above=0)], ...] = ()
    pool: Annotated[str, OneOf(("first", "mean"))] = "mean"
    finetune: Annotated[str, Finetuning()] = "frozen"
    lora_rank: Annotated[int, Range(1, 1024)] = 8

    @property
    def vocabulary(self) -> int:
        """The number of tokens of a text encoder."""
        size = self.architecture.get("vocab_size", 0)
        return size if isinstance(size, int) else 0

    @property
    def blocks(self) -> int:
        """The number of last blocks that are trained."""
        return int(self.finetune.partition("-")[2] or 0)


def is_pretrained(encoder: str) -> bool:
    """Whether the name of an encoder is that of a pretrained one, LIBRARY:PATH."""
    library, _, place = encoder.partition(":")
    return library in LIBRARIES and bool(place)


def without_folders(encoders: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the encoders of a model without the folders of pretrained ones, LIBRARY:NAME."""
    return tuple(
        (key, f"{name.partition(':')[0]}:{Path(name.partition(':')[2]).name}")
        if is_pretrained(name)
        else (key, name)
        for key, name in encoders
    )
