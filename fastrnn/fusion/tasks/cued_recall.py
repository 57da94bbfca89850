"""Cued recall: streams whose answer needs both modalities, and memory.

A row has 4 to 12 steps. At each a handwritten digit is shown and a noisy tone sounds: a high one,
one time in ten, says "remember this digit", a low one says nothing. The answer at every step is
the last digit to be remembered; steps before the first have none.

Pictures without sound leave a guess at which digit counts: at best PICTURE_BOUND of the answers.
Sound without pictures leaves chance. Without memory, only steps with a high tone can be answered
and the rest guessed: NO_MEMORY_BOUND.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .digits import write_digits, write_wav

NAME = "cued-recall"
STEPS = (4, 12)
REMEMBER = 0.1  # how often; a row has at least one
TONES = (700.0, 1500.0)  # Hz: ignore, remember
NOISE = 0.25  # standard deviation, beside tones of amplitude 0.5
RATE = 8000  # Hz
STEP_SECONDS = 0.04
# What a model that reads digits and tones without fault reaches, by `bounds`.
PICTURE_BOUND = 0.393
NO_MEMORY_BOUND = 0.348
CHANCE = 0.1

ROWS = {"train": 4000, "val": 400, "test": 1200}


def write(folder: Path, seed: int = 0, rows: dict[str, int] | None = None) -> Path:
    """Write images/*.png, audio/*.wav and manifest.jsonl; returns the manifest's path."""
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
                while not remember.any():  # a row with no answer at all teaches nothing
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
    """(PICTURE_BOUND, NO_MEMORY_BOUND): the mean best posterior over random rows.

    That the digit of step j counts at step t has the weight p (1 - p)^(t - j), with p = REMEMBER;
    the picture that was last remembered is unknown, so weights of equal digits add up.
    """
    dice = np.random.default_rng(seed)
    pictures = memoryless = scored = 0.0
    for _ in range(rows):
        steps = int(dice.integers(STEPS[0], STEPS[1] + 1))
        shown = dice.integers(0, 10, steps)
        kept = 1 / (1 - (1 - REMEMBER) ** steps)  # rows with nothing to remember were drawn again
        for t in range(steps):
            weight = kept * REMEMBER * (1 - REMEMBER) ** np.arange(t, -1, -1)
            pictures += np.bincount(shown[: t + 1], weights=weight).max()
            memoryless += weight[-1] + CHANCE * weight[:-1].sum()
            scored += weight.sum()
    return pictures / scored, memoryless / scored
