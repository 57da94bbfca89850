"""Text to token numbers: byte-level BPE, trained on the training rows' own texts.

Bytes are the alphabet, so every script works and nothing is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .config import DataConfig
from .errors import MediaError


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


def check_length(text: str, config: DataConfig) -> None:
    """Refuse a text that would take long to tokenize.

    Raises:
        MediaError: it is longer than `max_characters`.
    """
    if len(text) > config.max_characters:
        raise MediaError(
            f"the text beginning {text[:40]!r} has {len(text)} characters, more than the "
            f"{config.max_characters} allowed; shorten it"
        )


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer saved as JSON."""
    return Tokenizer.from_file(str(path))
