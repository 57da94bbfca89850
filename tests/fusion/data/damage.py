"""Damage a file in many ways."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def mutated(data: bytes, times: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies: with changed bytes, a missing piece, or a missing end."""
    dice = np.random.default_rng(seed)
    for number in range(times):
        noise = bytearray(data)
        if number % 3 == 0:
            for place in dice.integers(0, len(data), 1 + number % 8):
                noise[place] = dice.integers(256)
        elif number % 3 == 1:
            begin = dice.integers(0, len(data))
            del noise[begin : begin + dice.integers(1, 64)]
        else:
            del noise[dice.integers(0, len(data)) :]
        yield bytes(noise)
