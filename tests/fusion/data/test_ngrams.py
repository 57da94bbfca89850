"""Test hashed n-grams against scikit-learn's analyser and zlib's CRC-32."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn.fusion.data.ngrams import ngrams, occurrences

TEXTS = ["A frog.", "¿Dónde está?", "  наберите   номер  ", "a-b c_d 12", "好的 好的", "...", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_ngrams_are_those_of_scikit_learn(text):
    vectorizers = pytest.importorskip("sklearn.feature_extraction.text")
    char_wb = vectorizers.CountVectorizer(analyzer="char_wb", ngram_range=(1, 5)).build_analyzer()
    words = vectorizers.CountVectorizer(token_pattern=r"\w+").build_analyzer()
    # Its analyser yields the n-grams of a short word once for each longer n; a set has each once.
    grams = {each for each in char_wb(text) if each != " "}
    expected = {1 + crc32(each.encode()) % 10**6 for each in grams}
    expected |= {1 + crc32(f"#{each}".encode()) % 10**6 for each in words(text)}
    numbers, weights = ngrams(text, 10**6)
    assert set(numbers.tolist()) == (expected or {0})
    assert len(numbers) == len(weights)


@given(st.text(max_size=40), st.integers(1, 50))
def test_weights_count_occurrences(text, buckets):
    numbers, weights = ngrams(text, buckets)
    assert numbers.dtype == np.int64
    assert weights.dtype == np.float32
    places = list(occurrences(text, buckets))
    if not places:
        assert numbers.tolist() == [0]
        assert weights.tolist() == [0]
        return
    assert set(numbers.tolist()) == {number for number, _, _ in places}
    assert numbers.min() >= 1
    assert numbers.max() <= buckets
    words = any(each.isalnum() or each == "_" for each in text.lower())
    squares = float(np.square(weights.astype(float)).sum())
    assert squares == pytest.approx(2 if words else 1, abs=1e-5)  # each kind has the norm 1
    assert all(0 <= start < end <= len(text) for _, start, end in places)


def test_places_are_those_of_the_text():
    """In small letters, the first word is longer."""
    number = 1 + crc32(b"#cat") % 10**6
    assert [each[1:] for each in occurrences("İİİ Cat", 10**6) if each[0] == number] == [(4, 7)]


def test_a_frequent_ngram_weighs_more():
    numbers, weights = ngrams("ab ab cd", 10**6)
    count = Counter(number for number, _, _ in occurrences("ab ab cd", 10**6))
    share = dict(zip(numbers.tolist(), weights.tolist(), strict=True))
    twice = 1 + crc32(b"ab") % 10**6
    once = 1 + crc32(b"cd") % 10**6
    assert (count[twice], count[once]) == (2, 1)
    assert share[twice] / share[once] == pytest.approx(1 + np.log(2))
