"""Hashed character n-grams of a text, weighted as in TF-IDF.

The features of a text are those of its words, which white space separates, in lower case:

- the 1- to 5-grams of the word with a space at both ends, as in scikit-learn's `char_wb` analyser;
- each run of letters, digits and "_" in the word, with a "#" before it.

A feature has the number 1 + crc32(its UTF-8 bytes) % buckets (zlib's CRC-32). A number that occurs
n times has the weight 1 + ln n. The weights of a text are scaled to the Euclidean norm 1.
"""

from __future__ import annotations

import re
from functools import lru_cache
from zlib import crc32

import numpy as np

LONGEST = 5  # characters of the longest n-grams


def ngrams(text: str, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a text's features, int64 [G] and sorted, and weights, float32 [G].

    A text without any, which is empty, has the number 0 with the weight 0.
    """
    words = [word_features(word, buckets) for word in text.lower().split()]
    if not words:
        return np.zeros(1, np.int64), np.zeros(1, np.float32)
    numbers, counts = np.unique(np.concatenate(words), return_counts=True)
    weights = 1 + np.log(counts)
    return numbers, (weights / np.sqrt(np.square(weights).sum())).astype(np.float32)


@lru_cache(maxsize=50_000)  # a few frequent words make up most of any text
def word_features(word: str, buckets: int) -> np.ndarray:
    """Return the numbers of the features of one word, int64 and read-only."""
    padded = f" {word} "
    features = [f"#{part}" for part in re.findall(r"\w+", word)]
    for length in range(1, LONGEST + 1):
        features += [padded[at : at + length] for at in range(len(padded) - length + 1)]
    numbers = [1 + crc32(each.encode()) % buckets for each in features if each != " "]
    result = np.array(numbers, np.int64)
    result.flags.writeable = False
    return result
