"""Profile training: the time of the recurrent layers, the rest of the step, and the data."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.table import Table
from torch.profiler import ProfilerActivity

from fastrnn.fusion.training.run import Run

from .training_step import training_step

STEPS = 20
_OPERATORS = "fastrnn::"  # namespace of the recurrent layers' operators


@dataclass(frozen=True)
class Shares:
    """Average milliseconds per training step."""

    data: float  # building the batch
    step: float  # forward, backward, optimizer
    recurrent: float  # part of the step: the fused layers' recurrences, forward and backward
    slowest: tuple[tuple[str, float], ...]  # (operator, share of the step), largest first


def profile(run: Run) -> Shares:
    """Train a copy of the saved model for STEPS batches, like the training loop, and time it.

    A second pass measures the share of the recurrences with torch.profiler, whose overhead affects
    all operators equally. A layer's matrix products over its inputs count as matrix products.
    """
    model = copy.deepcopy(run.trained[0].model).train()
    device = next(model.parameters()).device
    examples, training = run.examples["train"], run.config.train
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    size = min(training.batch_size, len(order))
    step = training_step(model, run.config.model.problem_type, training)

    def batch(number: int) -> dict[str, torch.Tensor]:
        first = number * size % (len(order) - size + 1)
        values = examples.collate(order[first : first + size])
        return {name: value.to(device) for name, value in values.items()}

    step(batch(0))  # warm-up: the first step allocates
    data = worked = 0.0
    for number in range(STEPS):
        begun = time.perf_counter()
        values = batch(number)
        ready = time.perf_counter()
        step(values)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        data += ready - begun
        worked += time.perf_counter() - ready
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    batches = [batch(number) for number in range(STEPS)]
    with _quiet(), torch.profiler.profile(activities=activities) as profiler:
        for values in batches:
            step(values)
    own: dict[str, float] = {}
    for each in profiler.key_averages():
        spent = each.self_device_time_total if device.type == "cuda" else each.self_cpu_time_total
        own[each.key] = own.get(each.key, 0.0) + spent
    total = sum(own.values())
    shares = {name: spent / total for name, spent in own.items()}
    recurrent = sum(share for name, share in shares.items() if name.startswith(_OPERATORS))
    largest = sorted(shares.items(), key=lambda item: -item[1])[:6]
    milliseconds = 1000 / STEPS
    return Shares(
        data * milliseconds,
        worked * milliseconds,
        recurrent * worked * milliseconds,
        tuple(largest),
    )


def table(shares: Shares) -> Table:
    """Format the shares as a table."""
    whole = shares.data + shares.step
    result = Table(title=f"Time per training step, mean of {STEPS} steps", title_justify="left")
    result.add_column("part")
    result.add_column("ms per step", justify="right")
    result.add_column("share", justify="right")
    for name, value in (
        ("waiting for data: building the batch", shares.data),
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
