"""Fixtures: a small manifest of real files, and one CPU thread, as the tensors are small."""

from __future__ import annotations

import csv
import json
import resource
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

RATE = 8000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_clip(path: Path, seconds: float = 0.2, hertz: float = 440.0, rate: int = RATE) -> None:
    time = np.arange(round(seconds * rate)) / rate
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((np.sin(2 * np.pi * hertz * time) * 20000).astype("<i2").tobytes())


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Twenty rows of image, audio and text, labelled alternately no and yes, with their files."""
    return write_rows(tmp_path)


def write_rows(folder: Path) -> list[dict[str, Any]]:
    result = []
    for number in range(20):
        write_image(folder / f"{number}.png", number)
        # Different lengths, so that batches are padded.
        write_clip(folder / f"{number}.wav", 0.1 + 0.02 * number, 300 + 600 * (number % 2))
        result.append(
            {
                "image": f"{number}.png",
                "audio": f"{number}.wav",
                "text": "一 word" + " and another" * (number % 4),
                "label": "yes" if number % 2 else "no",
            }
        )
    return result


@pytest.fixture
def streams(tmp_path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Twenty rows of 1 to 4 images and a clip; a label per step, null at the first of several."""
    result = []
    for number in range(20):
        steps = 1 + number % 4
        labels: list[str | None] = [str((number + step) % 3) for step in range(steps)]
        if steps > 1:
            labels[0] = None
        # Four rows share four images: rows with a common file go to the same split.
        images = [f"{number // 4 * 4 + (number + step) % 4}.png" for step in range(steps)]
        result.append({"image": images, "audio": f"{number}.wav", "label": labels})
    return result


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as manifest.csv or manifest.jsonl, next to the files."""

    def write(rows: list[dict[str, Any]], ending: str = "jsonl") -> Path:
        writer = write_csv if ending == "csv" else write_jsonl
        return writer(tmp_path / f"manifest.{ending}", rows)

    return write


@contextmanager
def no_space(size: int) -> Iterator[None]:
    """Limit files to `size` bytes, so that writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
