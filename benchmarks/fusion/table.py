"""Write a large table of small files: images, texts and labels, for measurements of memory."""

from __future__ import annotations

import csv
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64  # pixels
WORDS = tuple("a the red blue small large dog cat bird sees hears likes one two of with".split())  # noqa: SIM905
_FOLDER = 1000  # files in one folder


def write(folder: Path, rows: int, processes: int = 2) -> Path:
    """Write images/*/*.png and manifest.csv (image, text, label); return the manifest's path."""
    starts = range(0, rows, _FOLDER)
    with Pool(processes) as pool:
        parts = pool.starmap(_write_part, ((folder, at, min(at + _FOLDER, rows)) for at in starts))
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("image", "text", "label"), *(row for part in parts for row in part)]
        )
    return manifest


def _write_part(folder: Path, start: int, end: int) -> list[tuple[str, str, str]]:
    """Write some images. A bright upper half is labelled "up", and a bright lower half "down"."""
    random = np.random.default_rng(start)
    place = f"images/{start // _FOLDER:05d}"
    (folder / place).mkdir(parents=True)
    rows = []
    for number in range(start, end):
        up = bool(random.integers(2))
        coarse = random.integers(0, 128, (8, 8, 3), dtype=np.uint8)
        coarse[:4] += 127 * up
        coarse[4:] += 127 * (not up)
        image = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.NEAREST)
        image.save(folder / place / f"{number:06d}.png", compress_level=1)
        text = " ".join(random.choice(WORDS, random.integers(4, 12)))
        rows.append((f"{place}/{number:06d}.png", text, "up" if up else "down"))
    return rows
