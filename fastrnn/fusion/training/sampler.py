"""The order of rows in an epoch, their distribution to processes, and random seeds.

Everything is derived from the seed and the position, so a run can resume at any step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass
class StepSampler:
    """The rows of each forward pass of one process in an epoch: a batch sampler of DataLoader.

    A step's rows are divided among the accumulated batches and the processes. A process without
    rows gets the step's first row; it counts as no row.

    Attributes:
        epoch, start: the epoch, and its first step, of the next pass.
    """

    rows: int
    batch_size: int
    parts: int  # accumulated batches of a step, in each process
    processes: int
    process: int
    seed: int
    epoch: int = 1
    start: int = 0

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(self.rows / self.batch_size)

    def plan(self) -> Iterator[tuple[Sequence[int], list[Sequence[int]]]]:
        """Yield, for each step, its rows and this process's parts of them, which may be empty."""
        order = shuffled(self.rows, self.seed, self.epoch)
        for step in range(self.start, self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size].tolist()
            yield rows, deal(rows, self.parts * self.processes)[self.process :: self.processes]

    def __iter__(self) -> Iterator[list[int]]:
        for rows, parts in self.plan():
            for part in parts:
                yield list(part or rows[:1])

    def __len__(self) -> int:
        return (self.steps - self.start) * self.parts


@dataclass(frozen=True)
class EvaluationSampler:
    """This process's rows, in batches. All processes have equally many batches.

    The rows of a batch are spread evenly over all rows, so the first batches are a fair sample.

    Attributes:
        rows: all rows.
    """

    rows: int
    batch_size: int
    processes: int = 1
    process: int = 0

    def plan(self) -> list[Sequence[int]]:
        """Return the rows of each batch; an empty one keeps step with the other processes."""
        count = math.ceil(self.rows / (self.batch_size * self.processes))  # of each process
        firsts = range(self.process * count, (self.process + 1) * count)
        return [range(self.rows)[first :: count * self.processes] for first in firsts]

    def __iter__(self) -> Iterator[list[int]]:
        return (list(part) or [0] for part in self.plan())

    def __len__(self) -> int:
        return len(self.plan())


def shuffled(rows: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the rows in an epoch, int64 [rows]."""
    generator = torch.Generator().manual_seed(number(seed, epoch))
    return torch.randperm(rows, generator=generator)


def deal(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Split rows into consecutive parts whose sizes differ by at most one, longer parts first."""
    size, longer = divmod(len(rows), parts)
    bounds = [number * size + min(number, longer) for number in range(parts + 1)]
    return [rows[first:end] for first, end in pairwise(bounds)]


def seed_torch(*numbers: int) -> None:
    """Seed torch's CPU and CUDA generators with a hash of these numbers."""
    seed = number(*numbers)
    # torch.manual_seed would also queue a lazy CUDA call each time, if CUDA is not initialised.
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def number(*numbers: int) -> int:
    """Hash the numbers to 63 bits."""
    text = " ".join(str(each) for each in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
