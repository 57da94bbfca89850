"""Images of handwritten digits from scikit-learn: 1,797 images of 8×8 pixels.

They are split 1100/247/450 before they are paired, so no image is in two splits.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

ZOOM = 4  # the files are 32×32 pixels, large enough to look at
_COUNTS = {"train": 1100, "val": 247, "test": 450}


@dataclass(frozen=True)
class Digits:
    """The images of one split: their files, relative to the manifest, and their digits."""

    paths: list[str]
    values: NDArray[np.int64]  # [N], 0 to 9


def load_split(seed: int) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return split name -> (images [N, 8, 8] with values from 0 to 1, digits [N])."""
    source = load_digits()
    order = np.random.default_rng(seed).permutation(len(source.target))
    result, start = {}, 0
    for split, count in _COUNTS.items():
        chosen = order[start : start + count]
        result[split] = source.images[chosen] / 16, source.target[chosen]
        start += count
    return result


def write_digits(folder: Path, seed: int, shifts: int = 1) -> dict[str, Digits]:
    """Write every digit as PNG files under folder/images; return split name -> Digits.

    With `shifts` > 1, each image is written that many times, each time shifted by up to one of
    its 8×8 pixels in both directions and dimmed by up to 30%.
    """
    source = load_digits()
    dice = np.random.default_rng(seed)
    order = dice.permutation(len(source.target))
    (folder / "images").mkdir(parents=True)
    result, start = {}, 0
    for split, count in _COUNTS.items():
        paths, values = [], []
        for index in order[start : start + count]:
            for copy in range(shifts):
                pixels = source.images[index] * (255 / 16)
                if shifts > 1:
                    pixels = _jitter(pixels, dice)
                name = f"images/{split}-{index:04d}-{copy}.png"
                picture = Image.fromarray(np.kron(pixels, np.ones((ZOOM, ZOOM))).astype(np.uint8))
                picture.save(folder / name, compress_level=1)
                paths.append(name)
                values.append(source.target[index])
        result[split] = Digits(paths, np.array(values))
        start += count
    return result


def _jitter(pixels: NDArray[np.float64], dice: np.random.Generator) -> NDArray[np.float64]:
    down, right = dice.integers(-1, 2, 2)
    moved = np.zeros_like(pixels)
    height, width = pixels.shape
    moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = pixels[
        max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)
    ]
    return moved * dice.uniform(0.7, 1.0)


def write_wav(path: Path, sound: NDArray[np.float64], rate: int) -> None:
    """Save [samples] within ±1 as 16-bit WAV; louder samples are clipped."""
    # soundfile waits for the disk after every file, which takes 3 ms each.
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
