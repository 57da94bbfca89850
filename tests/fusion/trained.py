"""A small finished run on real files, for tests of what is done with runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from fastrnn.fusion import DataConfig, TrainConfig, fit, read_manifest

from .conftest import write_clip, write_image, write_jsonl

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12)
OPTIONS = {"width": 16, "hidden": 24, "conv": (4, 8), "grid": 2}


def trained_run(folder: Path, kind: str) -> SimpleNamespace:
    """Forty rows of images, sounds and, but for streams, texts; trained for two epochs.

    Args:
        kind: binary, multiclass or steps.
    """
    rows = []
    for number in range(40):
        name = f"{number}"
        write_image(folder / f"{name}.png", number)
        write_clip(folder / f"{name}.wav", 0.1 + 0.01 * (number % 7), 300 + 600 * (number % 2))
        text = "一 word" + " and another" * (number % 4)
        row = {"image": f"{name}.png", "audio": f"{name}.wav", "text": text}
        row["label"] = "yes" if number % 2 else "no"
        if kind == "multiclass":
            row["label"] = str(number % 3)
        if kind == "steps":
            steps = 1 + number % 5
            row["image"] = [f"{(number + step) % (number + 1)}.png" for step in range(steps)]
            row["label"] = [str((number + step) % 3) for step in range(steps)]
            del row["text"]
        rows.append(row)
    manifest = read_manifest(write_jsonl(folder / "manifest.jsonl", rows))
    training = TrainConfig(epochs=2, batch=8)
    run = fit(manifest, folder / "run", DATA, training, OPTIONS, console=Console(quiet=True))
    return SimpleNamespace(
        manifest=manifest.path,
        folder=run.folder,
        config=run.config,
        examples=run.examples,
        trained=run.trained,
        preprocessor=run.preprocessor,
    )
