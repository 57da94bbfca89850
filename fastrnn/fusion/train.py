"""Training one model: Adam, one cycle of the learning rate, clipped gradients, through accelerate.

Accelerate places the model and the batches on the device there is; the loop is our own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from . import objective
from .config import ModelConfig, TrainConfig
from .data import Examples
from .log import Log
from .network import build

_EVALUATION_BATCH = 256  # rows; no gradients are kept, so more fit than in training


@dataclass(frozen=True)
class Score:
    """One pass over a split: the mean loss, and what is to be high: the share of right answers."""

    loss: float
    score: float


@dataclass
class Trained:
    """A trained model and how it came about."""

    name: str
    model: nn.Module
    epochs: list[dict[str, Score]] = field(default_factory=list)  # train and val, each epoch
    final: dict[str, Score] = field(default_factory=dict)  # val, and test where there is one
    seconds: float = 0.0  # training and validation

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(each.numel() for each in self.model.parameters())

    @property
    def judged(self) -> Score:
        """On test rows where there are some, else on val's."""
        return self.final.get("test", self.final["val"])


def train(
    name: str,
    config: ModelConfig,
    training: TrainConfig,
    examples: Mapping[str, Examples],
    log: Log,
) -> Trained:
    """Build and train a model on examples["train"], following examples["val"].

    The same seed gives the same model on the same machine.
    """
    torch.manual_seed(training.seed)
    accelerator = Accelerator()
    shuffle = torch.Generator().manual_seed(training.seed)
    loader = examples["train"].loader(training.batch, shuffle)
    model = build(config)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, total_steps=training.epochs * len(loader)
    )
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    others = {
        split: accelerator.prepare(examples[split].loader(_EVALUATION_BATCH))
        for split in ("val", "test")
        if split in examples
    }
    result = Trained(name, accelerator.unwrap_model(model))
    log.epoch(name, 0, training.epochs, "")
    start = time.perf_counter()
    for epoch in range(1, training.epochs + 1):
        scores = {}
        tally = _Tally(config, accelerator.device)
        model.train()
        for batch in loader:
            logits = model(batch)
            loss = objective.loss(config.kind, logits, batch["label"])
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), training.clip)
            optimizer.step()
            schedule.step()
            tally.add(loss.detach(), logits.detach(), batch["label"])
        scores["train"] = tally.score()
        scores["val"] = evaluate(model, config, others["val"], accelerator.device)
        result.epochs.append(scores)
        result.seconds = time.perf_counter() - start
        for split, score in scores.items():
            _record(log, result, epoch, split, score)
        note = f"train loss {scores['train'].loss:.3f}, val accuracy {scores['val'].score:.3f}"
        log.epoch(name, epoch, training.epochs, note)
    result.final["val"] = result.epochs[-1]["val"]
    if "test" in others:
        result.final["test"] = evaluate(model, config, others["test"], accelerator.device)
        _record(log, result, training.epochs, "test", result.final["test"])
    return result


@torch.no_grad()
def evaluate(
    model: nn.Module, config: ModelConfig, loader: DataLoader, device: torch.device
) -> Score:
    """The model's score on a loader's rows."""
    tally = _Tally(config, device)
    model.eval()
    for batch in loader:
        logits = model(batch)
        tally.add(objective.loss(config.kind, logits, batch["label"]), logits, batch["label"])
    return tally.score()


class _Tally:
    """Adds up the batches of one pass."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self.kind = config.kind
        self.loss = MeanMetric(nan_strategy="disable").to(device)
        self.accuracy = objective.metric(config.kind, max(2, config.outputs)).to(device)

    def add(self, loss: torch.Tensor, logits: torch.Tensor, label: torch.Tensor) -> None:
        self.loss.update(loss, weight=len(label))
        self.accuracy.update(objective.predict(self.kind, logits), label)

    def score(self) -> Score:
        return Score(float(self.loss.compute()), float(self.accuracy.compute()))


def _record(log: Log, result: Trained, epoch: int, split: str, score: Score) -> None:
    log.record(
        model=result.name,
        epoch=epoch,
        split=split,
        loss=round(score.loss, 6),
        accuracy=round(score.score, 6),
        seconds=round(result.seconds, 3),
    )
