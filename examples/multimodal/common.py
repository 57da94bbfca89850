"""Shared parts of the demos: the task and its files, the run, and the tables of results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fastrnn.fusion import checkpoint
from fastrnn.fusion.config.schema import DataConfig, TrainConfig
from fastrnn.fusion.data.manifest import read_manifest
from fastrnn.fusion.data.processor import Examples
from fastrnn.fusion.plots import metrics as plot
from fastrnn.fusion.report.console import results
from fastrnn.fusion.tasks import objectives
from fastrnn.fusion.training import run as experiment
from fastrnn.fusion.training.run import Run

Rows = dict[str, int]


@dataclass(frozen=True)
class Demo:
    """A synthetic task, with a model and training that suit it."""

    about: str
    write: Callable[[Path, int, Rows | None], Path]
    data: DataConfig
    training: TrainConfig
    options: Mapping[str, Any]
    levels: Mapping[str, float] = field(default_factory=dict)  # accuracies known in advance


@dataclass(frozen=True)
class Call:
    """The arguments of a demo."""

    name: str
    demo: Demo
    folder: Path
    seed: int
    rows: Rows | None
    epochs: int | None
    console: Console

    @property
    def training(self) -> TrainConfig:
        """The demo's training configuration, with the seed and the epochs of the call."""
        epochs = self.epochs or self.demo.training.epochs
        return replace(self.demo.training, seed=self.seed, epochs=epochs)

    def write(self) -> Path:
        """Write the demo's files to folder/data; return the path of the manifest."""
        start = time.perf_counter()
        make_room(self.folder)
        manifest = self.demo.write(self.folder / "data", self.seed, self.rows)
        self.console.print(f"Wrote the files in {time.perf_counter() - start:.1f} s")
        return manifest


def make_room(folder: Path) -> None:
    """Create an empty folder/data; raise ConfigError if the folder already contains a run."""
    experiment.keep_what_is_there(folder, ("data", experiment.METRICS, *checkpoint.FILES))
    (folder / "data").mkdir(parents=True)


def compare(call: Call) -> Run:
    """Train the fusion and its baselines on a demo, and show the results."""
    manifest = call.write()
    run = experiment.fit(
        read_manifest(manifest),
        call.folder,
        call.demo.data,
        call.training,
        call.demo.options,
        console=call.console,
    )
    call.console.print(results(run))
    for level, value in call.demo.levels.items():
        call.console.print(f"{level}: {value:.3f}")
    picture = call.folder / "curves.png"
    plot.curves(run.trained, picture, f"{call.name}: a synthetic task", call.demo.levels)
    call.console.out(f"To train on the same files: fastrnn fit {manifest}")
    return run


@torch.no_grad()
def logits(network: nn.Module, examples: Examples, missing: str | None = None) -> torch.Tensor:
    """Compute the logits of all rows, [N, C], optionally without the modality `missing`."""
    device = next(network.parameters()).device
    network.eval()
    parts = []
    for batch in examples.loader(256):
        if missing is not None:
            batch[f"{missing}_present"] = torch.zeros(len(batch["label"]), dtype=torch.bool)
        parts.append(network({name: value.to(device) for name, value in batch.items()}).cpu())
    return torch.cat(parts)


def accuracy(problem_type: str, answers: torch.Tensor, examples: Examples) -> float:
    """Return the accuracy of logits [N, C]."""
    label = torch.stack(list(examples.labels))
    return float((objectives.predict(problem_type, answers) == label).float().mean())


def grid(title: str, first: str, columns: list[str], rows: Mapping[str, list[str]]) -> Table:
    """Create a table of results."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table
