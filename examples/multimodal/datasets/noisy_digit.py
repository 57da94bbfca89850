"""Noisy audio-visual digit: an image and a spoken word of the same digit, both noisy.

A row shows a handwritten digit under noise of `IMAGE_NOISE` times its full brightness. One of many
voices says the digit at a signal-to-noise ratio of `SNR` decibels, far below the noise. Given the
digit, image and voice are drawn independently. The optimal fusion is therefore the product of the
posteriors, since all digits are equally frequent. Splits share no images and no voices.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from . import speech
from .digits import load_split, write_wav

NAME = "noisy-digit"
IMAGE_NOISE = 0.6  # standard deviation; pixels are between 0 and 1
SNR = -11.0  # dB
RANGE = (-2.0, 3.0)  # noisy pixel values that the file stores as 0 and 255
VOICES = {"train": 32, "val": 6, "test": 12}
TAKES = 2  # recordings of each digit by each voice
ROWS = {"train": 6000, "val": 600, "test": 3000}
CHANCE = 0.1


def write(folder: Path, seed: int = 0, rows: dict[str, int] | None = None) -> Path:
    """Write images/*.png, audio/*.wav and manifest.csv; return the manifest's path."""
    pictures = load_split(seed)
    dice = np.random.default_rng(seed + 1)
    for name in ("images", "audio"):
        (folder / name).mkdir(parents=True)
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "audio", "label", "voice", "split"))
        for split, count in (rows or ROWS).items():
            shown, values = pictures[split]
            speakers = speech.Speakers(speech.voices(VOICES[split], dice), TAKES, dice)
            for number in range(count):
                digit = number % 10
                picture = shown[dice.choice(np.flatnonzero(values == digit))]
                voice, word = speakers.any_take(digit)
                name = f"{split}-{number:05d}"
                _write_image(folder / "images" / f"{name}.png", picture, dice)
                wave = speech.under_noise(word, SNR, dice)
                write_wav(folder / "audio" / f"{name}.wav", wave, speech.RATE)
                row = f"images/{name}.png", f"audio/{name}.wav", digit, f"{split}-{voice}", split
                table.writerow(row)
    return manifest


def _write_image(path: Path, picture: np.ndarray, dice: np.random.Generator) -> None:
    low, high = RANGE
    noisy = picture + IMAGE_NOISE * dice.standard_normal(picture.shape)
    grey = ((noisy - low) / (high - low)).clip(0, 1) * 255
    Image.fromarray(grey.round().astype(np.uint8)).save(path, compress_level=1)
