"""The commands: `fastrnn fit MANIFEST` and `fastrnn demo [NAME]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from . import demo as demos
from . import experiment, plot
from .config import DataConfig, TrainConfig
from .errors import FusionError
from .manifest import read_manifest

app = typer.Typer(
    help="Train a model that fuses images, audio and text with a recurrent layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


class Fusion(str, Enum):
    """How modalities meet; `auto` is aligned for streams, else tokens."""

    auto = "auto"
    tokens = "tokens"
    concat = "concat"
    aligned = "aligned"
    late = "late"


Probe = Enum("Probe", {name: name for name in demos.DEMOS}, type=str)  # type: ignore[misc]

Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where to save; a new folder under runs/ by default."),
]
Seed = Annotated[int, typer.Option(help="Of the data, the split, the weights and the order.")]


@app.command()
def fit(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="A CSV or JSONL file.", show_default=False)
    ],
    image: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of image paths.")
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of audio paths.")
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="NAME", help="The column of texts.")] = None,
    label: Annotated[str | None, typer.Option(metavar="NAME", help="The column of labels.")] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of train, val, test.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Paths are relative to it and stay inside; the manifest's by default.",
        ),
    ] = None,
    out: Out = None,
    fusion: Annotated[Fusion, typer.Option(help="How modalities meet.")] = Fusion.auto,
    baselines: Annotated[
        bool, typer.Option(help="Also train each modality alone, late, and no recurrence.")
    ] = True,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a training step.")] = 32,
    rate: Annotated[float, typer.Option(help="The highest learning rate of the cycle.")] = 2e-3,
    width: Annotated[int, typer.Option(min=1, help="Features of each encoder.")] = 64,
    hidden: Annotated[int, typer.Option(min=1, help="Size of the recurrent layer.")] = 64,
    image_size: Annotated[
        int, typer.Option(min=8, help="Pixels of a side; images become squares.")
    ] = 64,
    max_seconds: Annotated[float, typer.Option(help="A longer clip is refused.")] = 60.0,
    seed: Seed = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; torch's choice by default.")
    ] = None,
) -> None:
    """Train on a table of images, audio and texts with labels, and compare with baselines.

    Columns are known by name (image, audio, text, label, split), by their files' endings, or by
    the options. Paths are relative to the manifest. Without a split column, rows are dealt
    80/10/10 by seed, each label in proportion.

    A stream is a row with several images, as a JSON list in its cell: ["1.png", "2.png"]. Its
    label may be a list too, one a step, null where none is asked for. Its audio file is cut into
    as many equal parts as there are steps.

    Files are decoded once and kept in memory.
    """
    if threads:
        torch.set_num_threads(threads)
    named = {"image": image, "audio": audio, "text": text, "label": label, "split": split}
    table = read_manifest(manifest, {role: name for role, name in named.items() if name}, root)
    options: dict[str, Any] = {"width": width, "hidden": hidden}
    if fusion is not Fusion.auto:
        options["fusion"] = fusion.value
    console = Console()
    run = experiment.fit(
        table,
        out or new_folder(manifest.stem),
        DataConfig(image_size=image_size, max_seconds=max_seconds),
        TrainConfig(epochs=epochs, batch=batch, rate=rate, seed=seed),
        options,
        baselines,
        console,
    )
    console.print(experiment.results(run))
    plot.curves(run.trained, run.folder / "curves.png", manifest.name)
    console.out(f"Saved in {run.folder}: config.json, model.safetensors, metrics.jsonl, curves.png")


@app.command()
def demo(
    name: Annotated[Probe, typer.Argument(help="The probe.")] = Probe[demos.cued_recall.NAME],
    out: Out = None,
    seed: Seed = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; tensors this small gain nothing from more.")
    ] = 1,
) -> None:
    """Write a probe's PNG and WAV files, train on them, and compare with baselines.

    cued-recall: digits and tones step by step; needs both, and memory. claim-check: a digit and a
    sentence about it; needs both.
    """
    torch.set_num_threads(threads)
    demos.run_demo(name.value, out or new_folder(name.value), seed)


def new_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3, ... that is not there."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What the user can mend is said without a traceback."""
    try:
        app(args=None if argv is None else list(argv), prog_name="fastrnn")
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    except FusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
