"""Spoken claim check: is a sentence about a digit true of a spoken digit?

This is claim check (claim_check.py) with a spoken digit instead of an image. It has few training
rows, with few of the sentences; the other splits have all sentences. Transfer learning can reuse
what a model learned from plenty of data about sentences and comparisons, so that only the
audio encoder is new. As in claim check, a voice alone or a sentence alone gives no information.
Splits share no voices.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import speech
from .claim_check import pairs, sentences
from .digits import write_wav

NAME = "spoken-claim"
SNR = 12.0  # dB
VOICES = {"train": 32, "val": 6, "test": 12}
TAKES = 2  # files of each digit by each voice
SENTENCES = 14  # sentences in the training rows, of 210
ROWS = {"train": 1000, "val": 400, "test": 2000}
CHANCE = 0.5


def write(folder: Path, seed: int = 0, rows: dict[str, int] | None = None) -> Path:
    """Write audio/*.wav and manifest.csv; return the manifest's path."""
    return write_tables(folder, seed, rows, {"manifest.csv": (None, SENTENCES)})[0]


def write_tables(
    folder: Path,
    seed: int,
    rows: dict[str, int] | None,
    tables: Mapping[str, tuple[int | None, int | None]],
) -> list[Path]:
    """Write audio/*.wav, and manifests that share these files and the rows of val and test.

    Args:
        tables: manifest name -> (number of training rows, or None for that of `rows`; number of
            sentences in them, or None for all).

    Returns:
        The paths of the manifests.
    """
    (folder / "audio").mkdir(parents=True)
    said = sentences()
    lines: dict[str, list[tuple[str, str, str, str]]] = {name: [] for name in tables}
    for number, (split, count) in enumerate((rows or ROWS).items()):
        dice = np.random.default_rng((seed, number))
        paths, values = _write_clips(folder, split, dice)
        order = dice.permutation(len(said))
        for name, (own, few) in tables.items():
            training = split == "train"
            allowed = {said[each] for each in order[:few]} if training and few else None
            wanted = own if training and own else count
            drawn = pairs(values, wanted // 4, np.random.default_rng((seed, number, 1)), allowed)
            lines[name] += [(paths[clip], text, label, split) for clip, text, label in drawn]
    for name, table in lines.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("audio", "text", "label", "split"), *table])
    return [folder / name for name in tables]


def _write_clips(
    folder: Path, split: str, dice: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Write all takes of all digits by the split's voices; return their files and digits, [N]."""
    paths, values = [], []
    for number, voice in enumerate(speech.voices(VOICES[split], dice)):
        for digit in range(10):
            for take in range(TAKES):
                word = speech.say(digit, voice, dice)
                paths.append(f"audio/{split}-{number:02d}-{digit}-{take}.wav")
                heard = speech.under_noise(word, SNR, dice)
                write_wav(folder / paths[-1], heard, speech.RATE)
                values.append(digit)
    return paths, np.array(values)
