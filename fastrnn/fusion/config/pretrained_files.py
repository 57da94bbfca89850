"""Read what pretrained models declare about themselves, from their folders or the Hub.

| file | |
|---|---|
| config.json | the architecture |
| model.safetensors, or several with an index | the weights |
| preprocessor_config.json | transformers: how images and clips become arrays |
| tokenizer.json | the tokenizer of a text model |
| 1_Pooling/config.json | sentence-transformers: how steps become a vector |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError
from .inputs import modality_of
from .preprocessing import (
    RESAMPLING,
    AudioPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
)
from .pretrained import ARCHITECTURES, PretrainedConfig, is_pretrained

CONFIG, PREPROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer.json"
_POOLING = "1_Pooling/config.json"
_PATTERNS = (CONFIG, PREPROCESSOR, TOKENIZER, _POOLING, "*.safetensors", "*.safetensors.index.json")
_AFTER_PADDING = ("mpnet", "roberta", "xlm-roberta")  # number positions from pad_token_id + 1


def folder_of(encoder: str) -> Path:
    """Return the folder of LIBRARY:PATH; a name that is no folder is downloaded from the Hub.

    Raises:
        ConfigError: there is no such folder, and the Hub has no such model or cannot be reached.
    """
    library, _, place = encoder.partition(":")
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    name = f"timm/{place}" if library == "timm" and "/" not in place else place
    try:
        return Path(snapshot_download(name, allow_patterns=list(_PATTERNS)))
    except Exception as error:  # the type depends on the HTTP library of the Hub's client
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{encoder}: no such folder, and the model cannot be loaded from the Hub ({why}); give "
            "the folder of a model, or check the name and the network"
        ) from None


def read_pretrained(options: Mapping[str, Any]) -> dict[str, PretrainedConfig]:
    """Read the pretrained encoders among a model's options, by input or modality.

    Args:
        options: the options `encoders`, `finetune` and `lora_rank`, as far as they are given.

    Raises:
        ConfigError: a folder or a file is missing or unsupported, or `finetune` names an input
            without a pretrained encoder.
    """
    encoders, finetune = dict(options.get("encoders", ())), dict(options.get("finetune", ()))
    named = {key: name for key, name in encoders.items() if is_pretrained(name)}
    for key in finetune.keys() - named.keys():
        raise ConfigError(f"finetune: {key} has no pretrained encoder; give it one with encoders")
    found = {}
    for key, name in named.items():
        config = _read(modality_of(key), name.partition(":")[0], folder_of(name))
        changes = {"finetune": finetune.get(key, "frozen")}
        if "lora_rank" in options:
            changes["lora_rank"] = options["lora_rank"]
        found[key] = replace(config, **changes)
    return found


def _read(modality: str, library: str, folder: Path) -> PretrainedConfig:
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"{folder}: contains no {CONFIG}; give the folder of a {library} model")
    architecture = files.read_json(path)
    if not isinstance(architecture, dict):
        raise ConfigError(f"{path}: not a JSON object; restore it")
    try:
        if library == "timm":
            return _timm(modality, architecture)
        kind = architecture.get("model_type")
        if kind not in ARCHITECTURES.get(modality, ()):
            known = ", ".join(ARCHITECTURES.get(modality, ())) or "none"
            raise ConfigError(
                f"unsupported architecture {kind!r} for {modality}; there are {known}"
            )
        if modality == "text":
            return _text(architecture, folder)
        return (_image if modality == "image" else _audio)(architecture, folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder}: {error}") from None


def _text(architecture: dict[str, Any], folder: Path) -> PretrainedConfig:
    path = folder / TOKENIZER
    if not path.is_file():
        raise ConfigError(f"contains no {TOKENIZER}; save it with AutoTokenizer.save_pretrained")
    most = architecture.get("max_position_embeddings", 512)
    if architecture["model_type"] in _AFTER_PADDING:
        most -= architecture.get("pad_token_id", 1) + 1
    pooling = files.read_json(folder / _POOLING) if (folder / _POOLING).is_file() else {}
    text = TextPreprocessing(str(path.resolve()), most)
    pool = "first" if pooling.get("pooling_mode_cls_token") else "mean"
    return PretrainedConfig("transformers", architecture, Preprocessing(text=text), pool=pool)


def _image(architecture: dict[str, Any], folder: Path) -> PretrainedConfig:
    given = files.read_json(folder / PREPROCESSOR)
    size, edge = _size(given.get("size", 224)), 0
    crop = _size(given.get("crop_size", size))
    if len(size) == 1:
        # ConvNeXt's processor names the size of the crop, up to 384 pixels
        edge = int(size[0] / given["crop_pct"]) if "crop_pct" in given else size[0]
        if "crop_pct" in given:
            crop, edge = size * 2, edge if size[0] < 384 else 0
        elif not given.get("do_center_crop", "crop_size" in given):
            raise ConfigError("images of different sizes are not supported; set do_center_crop")
    elif not given.get("do_center_crop"):
        crop = size
    elif crop != size:
        raise ConfigError("resizing to one size and cropping to another is not supported")
    image = ImagePreprocessing(
        height=crop[0],
        width=crop[-1],
        channels=architecture.get("num_channels", 3),
        shortest_edge=edge,
        resample=RESAMPLING[given.get("resample", 2)],
    )
    own = architecture.get("image_size")
    fixed = architecture["model_type"] in ("beit", "deit", "siglip_vision_model", "vit")
    if fixed and own is not None and _size(own) * 2 != [image.height, image.width]:
        raise ConfigError(
            f"images of {image.height}×{image.width} pixels in {PREPROCESSOR}, but image_size "
            f"{own} in {CONFIG}; make them equal"
        )
    mean, std = _normalisation(given, image.channels)
    has_first = (
        architecture["model_type"] in ("beit", "deit", "vit")
        or "dinov2" in (architecture["model_type"])
    )
    return PretrainedConfig(
        "transformers", architecture, Preprocessing(image=image), mean, std,
        "first" if has_first else "mean",
    )  # fmt: skip


def _size(value: Any) -> list[int]:
    """Return [height, width], or [side] of the shorter or of both sides."""
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return [value["shortest_edge"]]
        return [value["height"], value["width"]]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _normalisation(
    given: Mapping[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of pixels that are divided by 255."""
    if not math.isclose(given.get("rescale_factor", 1 / 255), 1 / 255):
        raise ConfigError("a rescale_factor other than 1/255 is not supported")
    if not given.get("do_rescale", True):
        raise ConfigError("do_rescale false is not supported")
    if not given.get("do_normalize", True):
        return (0.0,) * channels, (1.0,) * channels
    mean, std = given.get("image_mean", (0.5,)), given.get("image_std", (0.5,))
    return tuple(mean) * (channels // len(mean)), tuple(std) * (channels // len(std))


def _audio(architecture: dict[str, Any], folder: Path) -> PretrainedConfig:
    given = files.read_json(folder / PREPROCESSOR)
    kind, rate = architecture["model_type"], given.get("sampling_rate", 16_000)
    if kind == "whisper":
        audio = AudioPreprocessing(rate, False, given, given.get("feature_size", 80))
        frames = rate * given.get("chunk_length", 30) // given.get("hop_length", 160)
        most = 2 * architecture.get("max_source_positions", 1500)
    elif kind == "audio-spectrogram-transformer":
        audio = AudioPreprocessing(rate, False, given, given.get("num_mel_bins", 128))
        frames, most = given.get("max_length", 1024), architecture.get("max_length", 1024)
    else:
        audio = AudioPreprocessing(rate, given.get("do_normalize", True))
        frames = most = 0
    if frames > most:
        raise ConfigError(
            f"clips of {frames} frames in {PREPROCESSOR}, but the model reads {most}; save the "
            "feature extractor of the model"
        )
    return PretrainedConfig("transformers", architecture, Preprocessing(audio=audio))


def _timm(modality: str, architecture: dict[str, Any]) -> PretrainedConfig:
    if modality != "image":
        raise ConfigError(f"timm has models of images, but {modality} was to be read; "
                          "give a model of transformers")  # fmt: skip
    given = architecture["pretrained_cfg"]
    channels, height, width = given["input_size"]
    share, mode = given.get("crop_pct", 0.875), given.get("crop_mode", "center")
    if height != width or mode not in ("center", "squash"):
        raise ConfigError(f"crop_mode {mode} of {height}×{width} pixels is not supported")
    edge = math.floor(height / share) if mode == "center" else 0  # as timm's transforms
    if mode == "squash" and share != 1:
        raise ConfigError(f"crop_mode squash with crop_pct {share} is not supported")
    image = ImagePreprocessing(
        height, width, channels, edge, given.get("interpolation", "bilinear"), "even"
    )
    mean, std = tuple(given["mean"]), tuple(given["std"])
    return PretrainedConfig("timm", architecture, Preprocessing(image=image), mean, std)
