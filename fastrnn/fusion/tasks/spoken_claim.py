"""Spoken claim check: is what a sentence says of a digit true of the digit that is said?

Claim check (claim_check.py) with a spoken digit in the picture's place, and few rows: what another
model learned of sentences, and of comparing, can be carried over, and only hearing is new. The
sentences are the same ones; a voice and a sentence alone again tell nothing. Voices of one split
are not in another.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from . import speech
from .claim_check import pairs, sentences
from .digits import write_wav

NAME = "spoken-claim"
SNR = 6.0  # dB
VOICES = {"train": 32, "val": 6, "test": 12}
TAKES = 2  # files of each digit by each voice
SENTENCES = 40  # of the 210, in the training rows; all are in the others
ROWS = {"train": 1000, "val": 400, "test": 2000}
CHANCE = 0.5


def write(
    folder: Path, seed: int = 0, rows: dict[str, int] | None = None, few: int = SENTENCES
) -> Path:
    """Write audio/*.wav and manifest.csv; returns the manifest's path."""
    dice = np.random.default_rng(seed + 2)
    (folder / "audio").mkdir(parents=True)
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("audio", "text", "label", "split"))
        for split, count in (rows or ROWS).items():
            paths, values = _write_clips(folder, split, dice)
            allowed = None
            if split == "train" and few:
                said = sentences()
                allowed = {said[index] for index in dice.permutation(len(said))[:few]}
            for clip, text, label in pairs(values, count // 4, dice, allowed):
                table.writerow((paths[clip], text, label, split))
    return manifest


def _write_clips(
    folder: Path, split: str, dice: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """All takes of all digits by the split's voices: their files, and what each says, [N]."""
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
