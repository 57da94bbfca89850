"""Tokenise text with byte-level BPE, trained on the texts of the training rows.

The alphabet consists of bytes, so every script works and no token is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .. import files
from ..config.schema import DataConfig
from ..errors import ConfigError, MediaError
from ..strings import plural

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


def check(text: str, config: DataConfig) -> None:
    """Check that a text is short enough to tokenize, and valid Unicode.

    Raises:
        MediaError: it is longer than `max_characters`, or contains half of a surrogate pair.
    """
    if len(text) > config.max_characters:
        raise MediaError(
            f"the text starting with {text[:40]!r} has {plural(len(text), 'character')}, more than "
            f"the {config.max_characters} allowed; shorten it"
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise MediaError(
            f"the text starting with {text[:40]!r} contains a character that is not valid Unicode; "
            "fix it"
        )


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
