"""Apply the preprocessing that an encoder declares (config/preprocessing.py) to clips and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .. import files
from ..config.preprocessing import AudioPreprocessing, Preprocessing, TextPreprocessing
from ..config.schema import DataConfig
from ..errors import ConfigError
from .audio import read_audio
from .text import load_tokenizer


def read_clip(path: Path, config: DataConfig, audio: AudioPreprocessing) -> np.ndarray:
    """Read an audio clip as its encoder declares.

    Returns:
        float32 [samples], or [F, bands] of an extractor. Of the frames of silence with which that
        pads a clip, which are equal, one is kept.

    Raises:
        MediaError: as read_audio.
        ConfigError: the extractor needs transformers, which is not installed.
    """
    wave = read_audio(path, replace(config, sample_rate=audio.sampling_rate)).numpy()
    if audio.extractor:
        extract = _extractor(json.dumps(audio.extractor, sort_keys=True))
        found = extract(wave, sampling_rate=audio.sampling_rate, return_tensors="np")
        frames = next(iter(found.values()))[0]
        # Whisper's bands are rows.
        frames = frames if frames.shape[1] == audio.bands else frames.T
        padded = (frames == frames[-1]).all(1)
        end = len(frames) - int(padded[::-1].cumprod().sum()) + 1
        return np.ascontiguousarray(frames[:end], np.float32)
    if audio.normalise:  # as Wav2Vec2FeatureExtractor
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    return wave.astype(np.float32)


@lru_cache(maxsize=8)
def _extractor(config: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"the audio encoder needs {error.name}: pip install 'fastrnn[fusion,pretrained]'"
        ) from None
    given = files.parse_json(config, "the feature extractor")
    # One of preprocessing.EXTRACTORS: no other class is created.
    return getattr(transformers, given["feature_extractor_type"]).from_dict(given)


def prepared(tokenizer: Tokenizer, text: TextPreprocessing, config: DataConfig) -> Tokenizer:
    """Make a tokenizer truncate texts, keeping its special tokens at their ends."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(text.max_tokens, config.max_tokens))
    return tokenizer


def load_tokenizers(
    preprocessing: Mapping[str, Preprocessing], config: DataConfig, folder: Path | None = None
) -> dict[str, Tokenizer]:
    """Load the tokenizer of each text with an own one, from its declared path or a run's folder.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    found = {}
    for name, each in preprocessing.items():
        if each.text is not None:
            path = Path(each.text.tokenizer) if folder is None else folder / file_name(name)
            found[name] = prepared(load_tokenizer(path), each.text, config)
    return found


def file_name(name: str) -> str:
    """Return the name of the file in a run's folder with the tokenizer of a text."""
    return f"tokenizer-{name.replace(':', '_')}.json"


FILE_NAMES = "tokenizer-*.json"


def without_paths(preprocessing: Mapping[str, Preprocessing]) -> dict[str, Preprocessing]:
    """Return the declarations as they are saved in a run, which has copies of the tokenizers."""
    return {
        name: each if each.text is None else replace(each, text=replace(each.text, tokenizer=""))
        for name, each in preprocessing.items()
    }
