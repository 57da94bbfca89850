"""Cued recall: streams with labels that need both modalities, and memory.

A row has 4 to 12 steps. Each step shows a handwritten digit and plays a noisy tone. A high tone
means "remember this digit" and occurs one time in ten; a low tone means nothing. The label of every
step is the last digit to remember; steps before the first have no label.

With images only, a model must guess which digit counts: the best accuracy is PICTURE_BOUND. With
audio only, accuracy is at chance. Without memory, a model can only know the label of steps with a
high tone and must guess the others: the best accuracy is NO_MEMORY_BOUND.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .digits import write_digits, write_wav

NAME = "cued-recall"
STEPS = (4, 12)
REMEMBER = 0.1  # probability of a high tone; a row has at least one
TONES = (700.0, 1500.0)  # Hz: ignore, remember
NOISE = 0.25  # standard deviation; the tones have amplitude 0.5
RATE = 8000  # Hz
STEP_SECONDS = 0.04
# The best accuracies of a model that reads digits and tones without errors, computed by `bounds`.
PICTURE_BOUND = 0.393
NO_MEMORY_BOUND = 0.348
CHANCE = 0.1

ROWS = {"train": 4000, "val": 400, "test": 1200}


def write(folder: Path, seed: int = 0, rows: dict[str, int] | None = None) -> Path:
    """Write images/*.png, audio/*.wav and manifest.jsonl; return the manifest's path."""
    digits = write_digits(folder, seed)
    dice = np.random.default_rng(seed + 1)
    (folder / "audio").mkdir()
    samples = round(RATE * STEP_SECONDS)
    time = np.arange(samples) / RATE
    manifest = folder / "manifest.jsonl"
    with manifest.open("w", encoding="utf-8") as file:
        for split, count in (rows or ROWS).items():
            pool = digits[split]
            for number in range(count):
                steps = int(dice.integers(STEPS[0], STEPS[1] + 1))
                shown = dice.integers(len(pool.paths), size=steps)
                remember = dice.random(steps) < REMEMBER
                while not remember.any():  # a row without any label is useless
                    remember = dice.random(steps) < REMEMBER
                pitch = np.where(remember, TONES[1], TONES[0])
                phase = dice.uniform(0, 2 * np.pi, steps)
                tone = 0.5 * np.sin(2 * np.pi * pitch[:, None] * time + phase[:, None])
                sound = tone.ravel() + NOISE * dice.standard_normal(steps * samples)
                name = f"audio/{split}-{number:05d}.wav"
                write_wav(folder / name, sound, RATE)
                row = {
                    "image": [pool.paths[each] for each in shown],
                    "audio": name,
                    "label": _answers(pool.values[shown], remember),
                    "split": split,
                }
                file.write(json.dumps(row) + "\n")
    return manifest


def _answers(values: np.ndarray, remember: np.ndarray) -> list[int | None]:
    last: int | None = None
    answers = []
    for value, cue in zip(values, remember, strict=True):
        last = int(value) if cue else last
        answers.append(last)
    return answers


def bounds(rows: int = 20_000, seed: int = 0) -> tuple[float, float]:
    """Compute (PICTURE_BOUND, NO_MEMORY_BOUND): the mean best posterior over random rows.

    The digit of step j is the label of step t with weight p (1 - p)^(t - j), where p = REMEMBER.
    The remembered image is unknown, so the weights of equal digits add up.
    """
    dice = np.random.default_rng(seed)
    pictures = memoryless = scored = 0.0
    for _ in range(rows):
        steps = int(dice.integers(STEPS[0], STEPS[1] + 1))
        shown = dice.integers(0, 10, steps)
        kept = 1 / (1 - (1 - REMEMBER) ** steps)  # rows with nothing to remember are redrawn
        for t in range(steps):
            weight = kept * REMEMBER * (1 - REMEMBER) ** np.arange(t, -1, -1)
            pictures += np.bincount(shown[: t + 1], weights=weight).max()
            memoryless += weight[-1] + CHANCE * weight[:-1].sum()
            scored += weight.sum()
    return pictures / scored, memoryless / scored
