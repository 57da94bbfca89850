"""The demos: generate a synthetic task, train on its files as on any others, show the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.fusion import profiling, training_step
from fastrnn.fusion import DataConfig, FitConfig, Run, TrainConfig

from .article import run_article
from .common import Call, Demo, compare
from .datasets import claim_check, cued_recall, noisy_digit, speech, spoken_claim
from .noisy import run_noisy
from .transfer import run_transfer

# Linear readouts of single inputs and pooled steps, which help on small real tables, would hide
# what the fusion and the recurrent layers do by themselves.
_PLAIN = {"pooling": ("state",), "unimodal_heads": False}
_CLAIM_DATA = DataConfig(image_size=8, image_channels=1, vocabulary=400, ngrams=0)
_SPEECH_DATA = replace(_CLAIM_DATA, sample_rate=speech.RATE, mels=24)
_CLAIM_CONFIG = FitConfig(
    data=_CLAIM_DATA,
    model={"width": 64, "hidden": 64, "conv": (16, 32), "grid": 2, **_PLAIN},
    train=TrainConfig(
        epochs=8, batch_size=64, learning_rate=4e-3, weight_decay=0.0, random_silence=False
    ),
)


def _fewer_claims(folder: Path, seed: int, rows: dict[str, int] | None) -> Path:
    """Write half of the claims, since this demo trains many networks and the article's are slow."""
    return claim_check.write(folder, seed, rows or {"train": 8000, "val": 400, "test": 2000})


DEMOS = {
    cued_recall.NAME: Demo(
        about=(
            "Each step shows a handwritten digit and plays a noisy tone; a high tone means "
            "'remember this one'. The label of every step is the digit last remembered."
        ),
        write=cued_recall.write,
        config=FitConfig(
            data=DataConfig(
                image_size=8, image_channels=1, sample_rate=cued_recall.RATE, hop_ms=10.0, mels=20
            ),
            model={
                "width": 64,
                "hidden": 96,
                "conv": (16, 32),
                "grid": 2,
                "strides": (2,),
                **_PLAIN,
            },
            train=TrainConfig(
                epochs=8, batch_size=64, learning_rate=6e-3, weight_decay=0.0, random_silence=False
            ),
        ),
        levels={
            "best possible from images alone": cued_recall.PICTURE_BOUND,
            "chance": cued_recall.CHANCE,
        },
    ),
    claim_check.NAME: Demo(
        about="A handwritten digit and a sentence about it; the label says if it is true.",
        write=claim_check.write,
        config=_CLAIM_CONFIG,
        levels={"best possible from either alone": claim_check.CHANCE},
    ),
    noisy_digit.NAME: Demo(
        about="A noisy image and a noisy recording of the same digit; the label is the digit.",
        write=noisy_digit.write,
        config=FitConfig(
            data=_SPEECH_DATA,
            model={"width": 64, "hidden": 64, "conv": (32,), "grid": 4, **_PLAIN},
            train=TrainConfig(
                epochs=10, batch_size=64, learning_rate=4e-3, weight_decay=0.0, random_silence=False
            ),
        ),
        levels={"chance": noisy_digit.CHANCE},
        ignore=("voice",),
    ),
    spoken_claim.NAME: Demo(
        about=(
            "A spoken digit and a sentence about it; the label says if it is true. There are few "
            "rows of speech; the sentences are learned from many rows of handwritten digits."
        ),
        write=spoken_claim.write,
        config=replace(_CLAIM_CONFIG, data=_SPEECH_DATA),
        levels={"chance": spoken_claim.CHANCE},
    ),
    "article": Demo(
        about="Claim check with the article's network, and with the other fusion modes.",
        write=_fewer_claims,
        config=_CLAIM_CONFIG,
        levels={"best possible from either alone": claim_check.CHANCE},
    ),
}

_SHOWS: dict[str, Callable[[Call], Run]] = {
    noisy_digit.NAME: run_noisy,
    spoken_claim.NAME: run_transfer,
    "article": run_article,
}


def run_demo(
    name: str,
    folder: Path,
    seed: int = 0,
    rows: dict[str, int] | None = None,
    epochs: int | None = None,
    console: Console | None = None,
    profile: bool = False,
) -> Run:
    """Run a demo: write its files, train the fusion and its baselines, print and plot the results.

    Args:
        name: a key of DEMOS.
        folder: where to save the run; the files are written to folder/data.
        seed: seed of the data, the split, the weights and the order of rows.
        rows: number of train, val and test rows; the demo's own by default.
        epochs: passes over the training rows; the demo's own by default.
        console: where to print.
        profile: also profile a training step.

    Returns:
        The run whose model is saved in `folder`.
    """
    console = console or Console()
    console.rule(f"demo {name}", align="left")
    console.print(DEMOS[name].about)
    console.print("[bold]A synthetic task: its results do not carry over to real data.[/bold]")
    call = Call(name, DEMOS[name], folder, seed, rows, epochs, console)
    run = _SHOWS.get(name, compare)(call)
    show_timing(run, console)
    if profile:
        console.print(profiling.table(profiling.profile(run)))
    console.out(f"Saved in {folder}: the model, metrics.jsonl, the demo's files in data")
    return run


def show_timing(run: Run, console: Console) -> None:
    """Time a training step of the saved model with the fused layers and with torch's."""
    rows, training = run.datasets["train"], run.config.train
    batch = rows.batch(range(min(training.batch_size, len(rows))))
    comparisons = training_step.compare(run.trained[0].model, batch, run.processor.task, training)
    title = f"One training step, same model, weights and batch of {len(batch['label'])} rows"
    console.print(training_step.table(comparisons, title))
    console.print(f"CPU threads: {torch.get_num_threads()}")
