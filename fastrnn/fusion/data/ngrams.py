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


@lru_cache(maxsize=1024)  # a few frequent words make up most of any text
def features(word: str, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the n-grams and of the words in a word, int64 and read-only."""
    padded = f" {word} "
    grams = [
        padded[at : at + length]
        for length in range(1, LONGEST + 1)
        for at in range(len(padded) - length + 1)
    ]
    words = [f"#{part}" for part in re.findall(r"\w+", word)]
    return _numbers([each for each in grams if each != " "], buckets), _numbers(words, buckets)


def _numbers(features: list[str], buckets: int) -> np.ndarray:
    result = np.array([1 + crc32(each.encode()) % buckets for each in features], np.int64)
    result.flags.writeable = False
    return result
