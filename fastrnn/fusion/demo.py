"""The demonstrations: write a probe's files, train on them as on anyone's, show what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from . import profiling, timing
from .config import DataConfig, TrainConfig
from .demo_article import article
from .demo_noisy import noisy
from .demo_runs import Call, Demo, compare
from .demo_transfer import transfer
from .experiment import Run
from .tasks import claim_check, cued_recall, noisy_digit, speech, spoken_claim

_CLAIM_DATA = DataConfig(image_size=8, image_channels=1, vocabulary=400)
_SPEECH_DATA = replace(_CLAIM_DATA, sample_rate=speech.RATE, mels=24)
_CLAIM_OPTIONS = {"width": 64, "hidden": 64, "conv": (16, 32), "grid": 2}


def _fewer_claims(folder: Path, seed: int, rows: dict[str, int] | None) -> Path:
    """Half of the claims, as the article's networks are slow and many networks are trained."""
    return claim_check.write(folder, seed, rows or {"train": 8000, "val": 400, "test": 2000})


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
        data=_CLAIM_DATA,
        training=TrainConfig(epochs=8, batch=64, rate=4e-3),
        options=_CLAIM_OPTIONS,
        levels={"best possible from either alone": claim_check.CHANCE},
    ),
    noisy_digit.NAME: Demo(
        about="A digit that is seen and heard at once, both through noise; the answer: which.",
        write=noisy_digit.write,
        data=_SPEECH_DATA,
        training=TrainConfig(epochs=10, batch=64, rate=4e-3),
        options={"width": 64, "hidden": 64, "conv": (32,), "grid": 4},
        levels={"chance": noisy_digit.CHANCE},
    ),
    spoken_claim.NAME: Demo(
        about=(
            "A spoken digit and a sentence about it; the answer: whether it is true. Of sentences, "
            "a model learns from handwritten digits; of speech there are few rows."
        ),
        write=spoken_claim.write,
        data=_SPEECH_DATA,
        training=TrainConfig(epochs=8, batch=64, rate=4e-3),
        options=_CLAIM_OPTIONS,
        levels={"chance": spoken_claim.CHANCE},
    ),
    "article": Demo(
        about="Claim check by the article's network, and by the other ways to fuse.",
        write=_fewer_claims,
        data=_CLAIM_DATA,
        training=TrainConfig(epochs=8, batch=64, rate=4e-3),
        options=_CLAIM_OPTIONS,
        levels={"best possible from either alone": claim_check.CHANCE},
    ),
}

_SHOWS: dict[str, Callable[[Call], Run]] = {
    noisy_digit.NAME: noisy,
    spoken_claim.NAME: transfer,
    "article": article,
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
    """Write the probe under folder/data, train the fusion and its baselines, time, and draw.

    Args:
        rows: rows of train, val and test, where the probe's own number is not wanted.
        profile: also show where a training step's time goes.
    """
    console = console or Console()
    console.rule(f"fastrnn demo {name}", align="left")
    console.print(DEMOS[name].about)
    console.print("[bold]A constructed probe: its figures say nothing about real data.[/bold]")
    call = Call(name, DEMOS[name], folder, seed, rows, epochs, console)
    run = _SHOWS.get(name, compare)(call)
    show_timing(run, console)
    if profile:
        console.print(profiling.table(profiling.profile(run)))
    console.out(f"Saved in {folder}: the model, metrics.jsonl, the probe's files in data")
    return run


def show_timing(run: Run, console: Console) -> None:
    """Time the saved model's training step with both kinds of layer, and print it."""
    training = run.config.train
    batch = run.examples["train"].collate(range(min(training.batch, len(run.examples["train"]))))
    comparisons = timing.compare(run.trained[0].model, batch, run.config.model.kind, training)
    title = f"One training step, same model, weights and batch of {len(batch['label'])} rows"
    console.print(timing.table(comparisons, title))
    console.print(f"CPU threads: {torch.get_num_threads()}")
