"""Which rows a step is made of, who takes which, and its random numbers.

All of it follows from the seed and the position, so that a run can go on from anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import torch


def shuffled(rows: int, seed: int, epoch: int) -> list[int]:
    """The order of the rows in an epoch."""
    generator = torch.Generator().manual_seed(_number(seed, epoch))
    return torch.randperm(rows, generator=generator).tolist()


def deal(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Consecutive parts of sizes that differ by one at most, the longer ones first."""
    size, longer = divmod(len(rows), parts)
    bounds = [number * size + min(number, longer) for number in range(parts + 1)]
    return [rows[first:end] for first, end in pairwise(bounds)]


def seed_torch(*numbers: int) -> None:
    """Seed torch's generators of the CPU and the GPU, with a mix of these numbers."""
    seed = _number(*numbers)
    # torch.manual_seed would also note down, each time, what to do should a GPU be used later.
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def _number(*numbers: int) -> int:
    """63 bits that differ, and look random, for different numbers."""
    text = " ".join(str(each) for each in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
