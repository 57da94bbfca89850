"""Shared parts of the demos: the task and its files, the runs, and the tables of results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fastrnn.fusion import (
    FitConfig,
    FusionDataset,
    ModelConfig,
    Run,
    TrainConfig,
    fit,
    read_manifest,
)
from fastrnn.fusion.checkpoint import METRICS
from fastrnn.fusion.evaluation.perturbations import remove
from fastrnn.fusion.inference.loop import forward
from fastrnn.fusion.plots import metrics as plot
from fastrnn.fusion.report.console import results
from fastrnn.fusion.training.devices import make_accelerator
from fastrnn.fusion.training.loggers import Log
from fastrnn.fusion.training.run import keep_earlier_run
from fastrnn.fusion.training.trainer import Environment, Trained, train

Rows = dict[str, int]


@dataclass(frozen=True)
class Demo:
    """A synthetic task, with the options of a fit that suit it."""

    about: str
    write: Callable[[Path, int, Rows | None], Path]
    config: FitConfig
    levels: Mapping[str, float] = field(default_factory=dict)  # accuracies known in advance
    ignore: tuple[str, ...] = ()  # columns of the table that the model does not read


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
    def config(self) -> FitConfig:
        """The demo's options, with the seed and the epochs of the call."""
        training = self.demo.config.train
        epochs = self.epochs or training.epochs
        return replace(self.demo.config, train=replace(training, seed=self.seed, epochs=epochs))

    @property
    def alone(self) -> FitConfig:
        """The same options, without baselines."""
        return replace(self.config, baselines=False)

    def write(self) -> Path:
        """Write the demo's files to folder/data; return the path of the manifest."""
        start = time.perf_counter()
        make_room(self.folder)
        manifest = self.demo.write(self.folder / "data", self.seed, self.rows)
        self.console.print(f"Wrote the files in {time.perf_counter() - start:.1f} s")
        return manifest


def make_room(folder: Path) -> None:
    """Create an empty folder/data; raise ConfigError if the folder already contains a run."""
    keep_earlier_run(folder, ["data"])
    (folder / "data").mkdir(parents=True)


def compare(call: Call) -> Run:
    """Train the fusion and its baselines on a demo, and show the results."""
    manifest = call.write()
    table = read_manifest(manifest, ignore=call.demo.ignore)
    run = fit(table, call.folder, call.config, console=call.console)
    call.console.print(results(run))
    for level, value in call.demo.levels.items():
        call.console.print(f"{level}: {value:.3f}")
    picture = call.folder / "curves.png"
    plot.curves(run.trained, picture, f"{call.name}: a synthetic task", call.demo.levels)
    flags = "".join(f" --ignore {name}" for name in call.demo.ignore)
    call.console.out(f"To train on the same files: fastrnn fit {manifest}{flags}")
    return run


def train_each(
    configs: Mapping[str, ModelConfig],
    training: TrainConfig,
    datasets: Mapping[str, FusionDataset],
    folder: Path,
    console: Console,
) -> dict[str, Trained]:
    """Train networks, name -> configuration, on the same rows; log them in folder/metrics.jsonl."""
    accelerator = make_accelerator(training.precision)
    with Log(folder / METRICS, console) as log:
        environment = Environment(datasets, accelerator, log)
        return {
            name: train(name, config, training, environment) for name, config in configs.items()
        }


def logits(network: nn.Module, dataset: FusionDataset, missing: str | None = None) -> torch.Tensor:
    """Compute the logits of all rows, [N, C], optionally without the modality `missing`."""
    change = None if missing is None else partial(remove, modality=missing)
    return torch.cat([each.cpu() for _, _, each in forward(network, dataset, change=change)])


def accuracy(answers: torch.Tensor, dataset: FusionDataset) -> float:
    """Return the accuracy of logits [N, C]."""
    predicted = dataset.processor.task.predict(answers)
    return float((predicted == dataset.labels()).float().mean())


def grid(title: str, first: str, columns: list[str], rows: Mapping[str, list[str]]) -> Table:
    """Create a table of results."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table
