"""Hashed character n-grams of a text, weighted as in TF-IDF.

The features of a text are those of its words, which white space separates, in lower case:

- the 1- to 5-grams of the word with a space at both ends, as in scikit-learn's `char_wb` analyser;
- each run of letters, digits and "_" in the word, with a "#" before it.

A feature has the number 1 + crc32(its UTF-8 bytes) % buckets (zlib's CRC-32). A number that occurs
n times has the weight 1 + ln n. The weights of the n-grams of a text are scaled to the Euclidean
norm 1, and so are those of its words: otherwise the many n-grams would hide them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from zlib import crc32

import numpy as np

LONGEST = 5  # characters of the longest n-grams


def ngrams(text: str, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a text's features, int64 [G], and their weights, float32 [G].

    A text without any, which is empty, has the number 0 with the weight 0.
    """
    parts = [features(word, buckets) for word in text.lower().split()]
    numbers, weights = [np.zeros(1, np.int64)], [np.zeros(1, np.float32)]
    for kind in zip(*parts, strict=True):  # n-grams, then words
        found, counts = np.unique(np.concatenate(kind), return_counts=True)
        weight = 1 + np.log(counts)
        numbers.append(found)
        weights.append((weight / max(1, np.sqrt(np.square(weight).sum()))).astype(np.float32))
    return np.concatenate(numbers[1:] or numbers), np.concatenate(weights[1:] or weights)


def occurrences(text: str, buckets: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number, the start and the end of every feature of a text, in characters."""
    # A character may become two: "İ".lower() does.
    origin = [place for place, character in enumerate(text) for _ in character.lower()]
    for word in re.finditer(r"\S+", text.lower()):
        for feature, start, end in (*_grams(word[0]), *_words(word[0])):
            first, last = origin[word.start() + start], origin[word.start() + end - 1]
            yield _number(feature, buckets), first, last + 1


@lru_cache(maxsize=1024)  # a few frequent words make up most of any text
def features(word: str, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the n-grams and of the words in a word, int64 and read-only."""
    found = []
    for parts in (_grams(word), _words(word)):
        numbers = np.array([_number(feature, buckets) for feature, _, _ in parts], np.int64)
        numbers.flags.writeable = False
        found.append(numbers)
    return found[0], found[1]


def _grams(word: str) -> list[tuple[str, int, int]]:
    """Return the n-grams of a word with a space at both ends, and their places in the word."""
    padded = f" {word} "
    return [
        (padded[at : at + length], max(0, at - 1), min(len(word), at + length - 1))
        for length in range(1, LONGEST + 1)
        for at in range(len(padded) - length + 1)
        if padded[at : at + length] != " "
    ]


def _words(word: str) -> list[tuple[str, int, int]]:
    return [(f"#{part[0]}", part.start(), part.end()) for part in re.finditer(r"\w+", word)]


def _number(feature: str, buckets: int) -> int:
    return 1 + crc32(feature.encode()) % buckets
