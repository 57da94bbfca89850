"""The order of rows in an epoch, their distribution to processes, and random seeds.

Everything is derived from the seed and the position, so a run can resume at any step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import torch


def shuffled(rows: int, seed: int, epoch: int) -> list[int]:
    """Return the order of the rows in an epoch."""
    generator = torch.Generator().manual_seed(_number(seed, epoch))
    return torch.randperm(rows, generator=generator).tolist()


def deal(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Split rows into consecutive parts whose sizes differ by at most one, longer parts first."""
    size, longer = divmod(len(rows), parts)
    bounds = [number * size + min(number, longer) for number in range(parts + 1)]
    return [rows[first:end] for first, end in pairwise(bounds)]


def seed_torch(*numbers: int) -> None:
    """Seed torch's CPU and CUDA generators with a hash of these numbers."""
    seed = _number(*numbers)
    # torch.manual_seed would also queue a lazy CUDA call each time, if CUDA is not initialised.
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def _number(*numbers: int) -> int:
    """Hash the numbers to 63 bits."""
    text = " ".join(str(each) for each in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
