"""Text to token numbers: byte-level BPE, trained on the training rows' own texts.

Bytes are the alphabet, so every script works and nothing is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from . import files
from .config import DataConfig
from .errors import ConfigError, MediaError
from .words import plural

# What it is by default. Unset, the library complains at every fork of a process that has used it,
# as loaders do that decode files in processes of their own.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of at most `size` tokens (the 256 bytes are always among them)."""
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


def check(text: str, config: DataConfig) -> None:
    """Refuse a text that would take long to tokenize, or that is none.

    Raises:
        MediaError: it is longer than `max_characters`, or holds half of a surrogate pair.
    """
    if len(text) > config.max_characters:
        raise MediaError(
            f"the text beginning {text[:40]!r} has {plural(len(text), 'character')}, more than the "
            f"{config.max_characters} allowed; shorten it"
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise MediaError(
            f"the text beginning {text[:40]!r} holds a character that is no Unicode; mend it"
        )


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer saved as JSON.

    Raises:
        ConfigError: the file is not there, or holds no tokenizer.
    """
    content = files.read(path)
    files.parse_json(content, path)  # the library's parser says less of what is wrong
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library raises no class of its own
        raise ConfigError(f"{path}: holds no tokenizer ({error}); restore it") from None
