"""The same training step with FusedRNN and with torch.nn.RNN, side by side on this machine."""

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

from fastrnn import FusedRNN

from . import objective
from .config import TrainConfig
from .data import Batch


class PaddedRNN(nn.RNN):
    """torch.nn.RNN with FusedRNN's `lengths`, in the fastest way its users have.

    It runs over the padding and picks each row's last state out of the output. One layer, one
    direction, batch first: what the models here use.
    """

    def __init__(self, source: FusedRNN) -> None:
        if source.num_layers > 1 or source.bidirectional or not source.batch_first:
            raise ValueError("PaddedRNN stands in for one layer, one direction, batch first")
        super().__init__(
            source.input_size, source.hidden_size, bias=bool(source.bias), batch_first=True
        )
        self.to(next(source.parameters()))
        self.load_state_dict(source.state_dict())

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        resets: None = None,  # the models here have none
    ) -> tuple[Tensor, Tensor]:
        """As FusedRNN, but that output goes on beyond a row's length."""
        output, state = super().forward(input, hx)
        if lengths is not None:
            rows = torch.arange(lengths.shape[0], device=lengths.device)
            state = output[rows, lengths - 1][None]
        return output, state


def with_torch_rnn(model: nn.Module) -> nn.Module:
    """A copy of the model in which every FusedRNN is an nn.RNN with the same weights."""
    result = copy.deepcopy(model)
    for parent in list(result.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FusedRNN):
                setattr(parent, name, PaddedRNN(child))
    return result


@dataclass(frozen=True)
class Comparison:
    """Median milliseconds of one thing done twice."""

    what: str
    fused: float
    torch: float


def compare(
    model: nn.Module, batch: Batch, kind: str, training: TrainConfig, repeats: int = 40
) -> list[Comparison]:
    """Time a whole training step and the recurrent layers alone, alternating the two kinds.

    `model` is left as it is: both kinds are copies.
    """
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    fused, plain = copy.deepcopy(model).train(), with_torch_rnn(model).train()
    steps = [partial(training_step(each, kind, training), batch) for each in (fused, plain)]
    layers = [_recurrences(fused, batch, FusedRNN), _recurrences(plain, batch, PaddedRNN)]
    return [
        Comparison("whole training step", *_alternate(steps, device, repeats)),
        Comparison("recurrent layers alone", *_alternate(layers, device, repeats)),
    ]


def training_step(model: nn.Module, kind: str, training: TrainConfig) -> Callable[[Batch], None]:
    """One step of training `model`, as a function of the batch."""
    optimizer = torch.optim.Adam(model.parameters(), training.rate)

    def step(batch: Batch) -> None:
        loss = objective.loss(kind, model(batch), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()

    return step


def _recurrences(model: nn.Module, batch: Batch, of: type[nn.Module]) -> Callable[[], object]:
    """Forward and backward of every layer of type `of`, on the inputs that the model gives it."""
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
            (output.sum() + state.sum()).backward()

    return run


def _alternate(
    works: Sequence[Callable[[], object]], device: torch.device, repeats: int
) -> list[float]:
    """The median milliseconds of each, run in turn so that a busy machine disturbs both alike."""
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 3):
        for work, kept in zip(works, times, strict=True):
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            if repeat >= 3:  # the first calls allocate
                kept.append(1000 * (time.perf_counter() - start))
    return [statistics.median(each) for each in times]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(comparisons: list[Comparison], title: str) -> Table:
    """The comparisons, with their ratio."""
    result = Table(title=title, title_justify="left")
    result.add_column("median of one call, ms")
    for column in ("FusedRNN", "nn.RNN", "nn.RNN / FusedRNN"):
        result.add_column(column, justify="right")
    for each in comparisons:
        ratio = f"{each.torch / each.fused:.2f}"
        result.add_row(each.what, f"{each.fused:.2f}", f"{each.torch:.2f}", ratio)
    return result
