"""The demonstrations: write a probe's files, train on them as on anyone's, show what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import checkpoint, experiment, plot, timing
from .config import DataConfig, TrainConfig
from .experiment import Run
from .manifest import read_manifest
from .tasks import claim_check, cued_recall


@dataclass(frozen=True)
class Demo:
    """A probe, and a model and training that suit it."""

    about: str
    write: Callable[[Path, int, dict[str, int] | None], Path]
    data: DataConfig
    training: TrainConfig
    options: Mapping[str, Any]
    levels: Mapping[str, float] = field(default_factory=dict)  # accuracies known beforehand


DEMOS = {
    cued_recall.NAME: Demo(
        about=(
            "At each step a handwritten digit is shown and a noisy tone sounds; a high tone says "
            "'remember this one'. The answer at every step: the digit last remembered."
        ),
        write=cued_recall.write,
        data=DataConfig(
            image_size=8, image_channels=1, sample_rate=cued_recall.RATE, hop_ms=10.0, mels=20
        ),
        training=TrainConfig(epochs=8, batch=64, rate=6e-3),
        options={"width": 64, "hidden": 96, "conv": (16, 32), "grid": 2, "strides": (2,)},
        levels={
            "best possible from pictures alone": cued_recall.PICTURE_BOUND,
            "chance": cued_recall.CHANCE,
        },
    ),
    claim_check.NAME: Demo(
        about="A handwritten digit and a sentence about it; the answer: whether it is true.",
        write=claim_check.write,
        data=DataConfig(image_size=8, image_channels=1, vocabulary=400),
        training=TrainConfig(epochs=8, batch=64, rate=4e-3),
        options={"width": 64, "hidden": 64, "conv": (16, 32), "grid": 2},
        levels={"best possible from either alone": claim_check.CHANCE},
    ),
}


def run_demo(
    name: str,
    folder: Path,
    seed: int = 0,
    rows: dict[str, int] | None = None,
    epochs: int | None = None,
    console: Console | None = None,
) -> Run:
    """Write the probe under folder/data, train the fusion and its baselines, time, and draw.

    Args:
        rows: rows of train, val and test, where the probe's own number is not wanted.
    """
    demo = DEMOS[name]
    console = console or Console()
    console.rule(f"fastrnn demo {name}", align="left")
    console.print(demo.about)
    console.print("[bold]A constructed probe: its figures say nothing about real data.[/bold]")
    start = time.perf_counter()
    experiment.keep_what_is_there(folder, ("data", experiment.METRICS, *checkpoint.FILES))
    (folder / "data").mkdir(parents=True)
    manifest = demo.write(folder / "data", seed, rows)
    console.print(f"Wrote the files in {time.perf_counter() - start:.1f} s")
    training = replace(demo.training, seed=seed, epochs=epochs or demo.training.epochs)
    run = experiment.fit(
        read_manifest(manifest), folder, demo.data, training, demo.options, console=console
    )
    console.print(experiment.results(run))
    for level, value in demo.levels.items():
        console.print(f"{level}: {value:.3f}")
    show_timing(run, console)
    picture = folder / "curves.png"
    plot.curves(run.trained, picture, f"{name}: a constructed probe", demo.levels)
    console.out(f"Saved in {folder}: config.json, model.safetensors, metrics.jsonl, {picture.name}")
    console.out(f"Train from the same files yourself: fastrnn fit {manifest}")
    return run


def show_timing(run: Run, console: Console) -> None:
    """Time the saved model's training step with both kinds of layer, and print it."""
    training = run.config.train
    batch = run.examples["train"].collate(range(min(training.batch, len(run.examples["train"]))))
    comparisons = timing.compare(run.trained[0].model, batch, run.config.model.kind, training)
    title = f"One training step, same model, weights and batch of {len(batch['label'])} rows"
    console.print(timing.table(comparisons, title))
    console.print(f"CPU threads: {torch.get_num_threads()}")
