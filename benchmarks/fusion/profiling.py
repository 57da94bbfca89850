"""Profile training: the time of the recurrent layers, the rest of the step, and the data."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice

import torch
from rich.table import Table
from torch.profiler import ProfilerActivity

from fastrnn.fusion import Run
from fastrnn.fusion.batch import Batch, to_device
from fastrnn.fusion.data.loader import BatchLoader
from fastrnn.fusion.training.sampler import StepSampler

from .training_step import training_step

STEPS = 20
_OPERATORS = "fastrnn::"  # namespace of the recurrent layers' operators


@dataclass(frozen=True)
class Shares:
    """Average milliseconds per training step."""

    data: float  # waiting for the loader's next batch, and moving it to the device
    step: float  # forward, backward, optimizer
    recurrent: float  # part of the step: the fused layers' recurrences, forward and backward
    slowest: tuple[tuple[str, float], ...]  # (operator, share of the step), largest first


def profile(run: Run) -> Shares:
    """Train a copy of the saved model for STEPS batches, like the training loop, and time it.

    Files that the run has cached are not decoded again, as in every epoch after the first. A
    second pass measures the share of the recurrences with torch.profiler, whose overhead affects
    all operators equally. A layer's matrix products over its inputs count as matrix products.
    """
    model = copy.deepcopy(run.trained[0].model).train()
    device = next(model.parameters()).device
    batches = _batches(run, device)
    step = training_step(model, run.processor.task, run.config.train)
    step(next(batches))  # warm-up: the first step allocates
    data = worked = 0.0
    for _ in range(STEPS):
        begun = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        data += ready - begun
        worked += time.perf_counter() - ready
    shares = _operators(step, list(islice(batches, STEPS)), device)
    recurrent = sum(share for name, share in shares.items() if name.startswith(_OPERATORS))
    largest = sorted(shares.items(), key=lambda item: -item[1])[:6]
    milliseconds = 1000 / STEPS
    return Shares(
        data * milliseconds,
        worked * milliseconds,
        recurrent * worked * milliseconds,
        tuple(largest),
    )


def _batches(run: Run, device: torch.device) -> Iterator[Batch]:
    """Yield the training batches of one epoch after another, loaded as in a fit."""
    rows, training = run.datasets["train"], run.config.train
    sampler = StepSampler(len(rows), training.batch_size, 1, 1, 0, training.seed)
    loader = BatchLoader(rows, sampler, pin_memory=device.type == "cuda")
    for sampler.epoch in count(1):
        yield from (to_device(batch, device) for batch in loader)


def _operators(
    step: Callable[[Batch], None], batches: Sequence[Batch], device: torch.device
) -> dict[str, float]:
    """Return each operator's share of the time of training steps."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with _quiet(), torch.profiler.profile(activities=activities) as profiler:
        for batch in batches:
            step(batch)
    own: dict[str, float] = {}
    for each in profiler.key_averages():
        spent = each.self_device_time_total if device.type == "cuda" else each.self_cpu_time_total
        own[each.key] = own.get(each.key, 0.0) + spent
    total = sum(own.values())
    return {name: spent / total for name, spent in own.items()}


def table(shares: Shares) -> Table:
    """Format the shares as a table."""
    whole = shares.data + shares.step
    result = Table(title=f"Time per training step, mean of {STEPS} steps", title_justify="left")
    result.add_column("part")
    result.add_column("ms per step", justify="right")
    result.add_column("share", justify="right")
    for name, value in (
        ("waiting for data", shares.data),
        ("recurrences of the fused layers, forward and backward", shares.recurrent),
        ("rest of the step", shares.step - shares.recurrent),
    ):
        result.add_row(name, f"{value:.2f}", f"{value / whole:.1%}")
    for name, share in shares.slowest:
        result.add_row(f"  operator {name}", "", f"{share * shares.step / whole:.1%}")
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages that the profiler's C++ code prints to stderr when it starts and stops.

    Otherwise only an environment variable set before importing torch would silence them.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
