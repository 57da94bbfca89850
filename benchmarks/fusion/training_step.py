"""Compare the time of a training step with the fused layers and with torch's, on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from fastrnn.fusion import TrainConfig
from fastrnn.fusion.batch import Batch, to_device
from fastrnn.fusion.models.recurrent import h_of
from fastrnn.fusion.models.torch_layers import FUSED_LAYERS, Padded, with_torch_layers
from fastrnn.fusion.tasks import Task


@dataclass(frozen=True)
class Comparison:
    """Median milliseconds of the same work with the fused layers and with torch's."""

    what: str
    fused: float
    torch: float


def compare(
    model: nn.Module, batch: Batch, task: Task, training: TrainConfig, repeats: int = 40
) -> list[Comparison]:
    """Time a whole training step and the recurrent layers alone, alternating the two versions.

    `model` is not modified: both versions are copies.
    """
    device = next(model.parameters()).device
    batch = to_device(batch, device)
    fused, plain = copy.deepcopy(model).train(), with_torch_layers(model).train()
    steps = [partial(training_step(each, task, training), batch) for each in (fused, plain)]
    layers = [_recurrences(fused, batch, FUSED_LAYERS), _recurrences(plain, batch, (Padded,))]
    return [
        Comparison("whole training step", *_alternate(steps, device, repeats)),
        Comparison("recurrent layers alone", *_alternate(layers, device, repeats)),
    ]


def training_step(model: nn.Module, task: Task, training: TrainConfig) -> Callable[[Batch], None]:
    """Return a function that trains `model` for one step on a batch."""
    optimizer = torch.optim.Adam(model.parameters(), training.learning_rate)

    def step(batch: Batch) -> None:
        loss = task.loss(model(batch), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()

    return step


def _recurrences(
    model: nn.Module, batch: Batch, of: tuple[type[nn.Module], ...]
) -> Callable[[], object]:
    """Return a function that runs all layers of the types `of`, forward and backward.

    The layers run on the inputs that the model gives them for `batch`.
    """
    calls: list[tuple[nn.Module, Tensor, Mapping[str, Any]]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], others: dict[str, Any]) -> None:
        calls.append((layer, inputs[0].detach().requires_grad_(), others))

    layers = [each for each in model.modules() if isinstance(each, of)]
    handles = [each.register_forward_pre_hook(keep, with_kwargs=True) for each in layers]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()

    def run() -> None:
        for layer, x, others in calls:
            output, state = layer(x, **others)
            (output.sum() + h_of(state).sum()).backward()

    return run


def _alternate(
    works: Sequence[Callable[[], object]], device: torch.device, repeats: int
) -> list[float]:
    """Return the median milliseconds of each; alternating runs spread machine noise equally."""
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 3):
        for work, kept in zip(works, times, strict=True):
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            if repeat >= 3:  # skip the warm-up, which allocates
                kept.append(1000 * (time.perf_counter() - start))
    return [statistics.median(each) for each in times]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(comparisons: list[Comparison], title: str) -> Table:
    """Format the comparisons and their ratios as a table."""
    result = Table(title=title, title_justify="left")
    result.add_column("median ms per call")
    for column in ("fastrnn", "torch", "torch / fastrnn"):
        result.add_column(column, justify="right")
    for each in comparisons:
        ratio = f"{each.torch / each.fused:.2f}"
        result.add_row(each.what, f"{each.fused:.2f}", f"{each.torch:.2f}", ratio)
    return result
