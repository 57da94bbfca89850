"""Claim check: is a sentence about a digit true of the digit in an image?

An example is "i am sure that the handwritten figure is less than six", paired with an image. Rows
come in groups of four: two images and two sentences, each true of one image only. Each image
and each sentence is therefore true as often as false, and neither alone gives any information:
chance is exactly one half.
"""

from __future__ import annotations

import csv
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from .digits import write_digits

NAME = "claim-check"
SHIFTS = 4  # files per image, slightly shifted and dimmed
ROWS = {"train": 16_000, "val": 1000, "test": 3000}
CHANCE = 0.5

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TRIES = 100_000  # consecutive useless draws; with all sentences allowed, one in ten is useful
_TEMPLATES = (
    "the digit is {}",
    "this picture shows a number that is {}",
    "i am sure that the handwritten figure is {}",
    "someone wrote a digit which is {}",
    "the number in the image is {}",
    "it looks as if the figure is {}",
    "what we see here is {}",
)


def claims() -> list[tuple[str, frozenset[int]]]:
    """Return all claims and the digits that they are true of; none is true of all or no digits."""
    digits = range(10)
    said = [(word, frozenset({value})) for value, word in enumerate(_WORDS)]
    said += [("odd", frozenset(digits[1::2])), ("even", frozenset(digits[::2]))]
    said += [(f"greater than {_WORDS[n]}", frozenset(digits[n + 1 :])) for n in digits[:9]]
    said += [(f"less than {_WORDS[n]}", frozenset(digits[:n])) for n in digits[1:]]
    return said


def write(folder: Path, seed: int = 0, rows: dict[str, int] | None = None) -> Path:
    """Write images/*.png and manifest.csv; return the manifest's path."""
    digits = write_digits(folder, seed, SHIFTS)
    dice = np.random.default_rng(seed + 1)
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "text", "label", "split"))
        for split, count in (rows or ROWS).items():
            pool = digits[split]
            for picture, text, label in pairs(pool.values, count // 4, dice):
                table.writerow((pool.paths[picture], text, label, split))
    return manifest


def sentences() -> list[str]:
    """Return all sentences of the task."""
    return [text for text, _ in _phrased()]


def _phrased() -> list[tuple[str, frozenset[int]]]:
    return [(each.format(claim), true) for each in _TEMPLATES for claim, true in claims()]


def pairs(
    values: np.ndarray,
    fours: int,
    dice: np.random.Generator,
    allowed: Container[str] | None = None,
) -> Iterator[tuple[int, str, str]]:
    """Yield (index into `values`, sentence, whether it is true of that digit: "true" or "false").

    Each draw yields four rows: two digits and two sentences, the first sentence true of the first
    digit only, the second of the second only. The kind of the first sentence is drawn uniformly:
    equal, odd or even, greater, less. If `allowed` is given, sentences are drawn uniformly from it
    instead.

    Args:
        values: digits, [N].
        fours: the number of draws.

    Raises:
        ValueError: no two of the allowed sentences were found to make such a draw.
    """
    said = claims()
    kinds = [said[:10], said[10:12], said[12:21], said[21:]]
    phrased = [(text, true) for text, true in _phrased() if allowed and text in allowed]
    tries = 0
    while fours:
        tries += 1
        if tries > _TRIES:
            raise ValueError(
                "no two allowed sentences are true of different digits; allow more sentences"
            )
        kind = phrased or kinds[dice.integers(len(kinds))]
        one, true = kind[dice.integers(len(kind))]
        first, second = (int(each) for each in dice.integers(len(values), size=2))
        a, b = int(values[first]), int(values[second])
        others = phrased or said
        two, true_of_other = others[dice.integers(len(others))]
        if a in true and b not in true and b in true_of_other and a not in true_of_other:
            if allowed is None:
                templates = dice.integers(len(_TEMPLATES), size=2)
                one, two = (
                    _TEMPLATES[template].format(claim)
                    for template, claim in zip(templates, (one, two), strict=True)
                )
            yield first, one, "true"
            yield second, one, "false"
            yield first, two, "false"
            yield second, two, "true"
            fours -= 1
            tries = 0
