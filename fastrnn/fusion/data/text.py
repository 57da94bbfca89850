"""Tokenise text with byte-level BPE, trained on the texts of the training rows.

The alphabet consists of bytes, so every script works and no token is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .. import files
from ..config.schema import DataConfig
from ..errors import ConfigError, MediaError
from ..strings import plural
from .ragged import Ragged

_BLOCK = 2048  # texts that are tokenized at once

# This is the default. Without the variable, the library warns after each fork of a process that has
# used it, for example by data loaders with worker processes.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a tokenizer with at most `size` tokens, which always include the 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, 256),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def too_long(text: str, config: DataConfig) -> MediaError:
    """Return the error of a text that is longer than `max_characters`."""
    return MediaError(
        f"the text starting with {text[:40]!r} has {plural(len(text), 'character')}, more than "
        f"the {config.max_characters} allowed; shorten it"
    )


def tokenize(tokenizer: Tokenizer, texts: Iterable[str | None], most: int) -> tuple[Ragged, int]:
    """Convert texts to token ids, truncated to `most`; return how many were truncated, too.

    A missing text becomes one token 0, a placeholder that no network reads.
    """
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.int32
    ids: list[np.ndarray] = []
    truncated = 0
    remaining = iter(texts)
    while block := list(islice(remaining, _BLOCK)):
        found = iter(tokenizer.encode_batch([each for each in block if each is not None]))
        for each in block:
            encoding = None if each is None else next(found)
            tokens = [0] if encoding is None else encoding.ids
            # A pretrained encoder's tokenizer truncates texts itself.
            truncated += len(tokens) > most or bool(encoding and encoding.overflowing)
            ids.append(np.array(tokens[:most], dtype))
    return Ragged.of(ids, dtype), truncated


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer from a JSON file.

    Raises:
        ConfigError: the file does not exist, or is not a tokenizer.
    """
    content = files.read(path)
    files.parse_json(content, path)  # gives clearer errors than the library's parser
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library has no exception class
        raise ConfigError(f"{path}: not a tokenizer ({error}); restore it") from None
