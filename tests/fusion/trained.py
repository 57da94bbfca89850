"""A small finished run on real files, for tests that use runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fastrnn.fusion import DataConfig, FitConfig, Run, TrainConfig, fit, read_manifest

from .conftest import write_clip, write_image, write_jsonl

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12)
OPTIONS = {"width": 16, "hidden": 24, "conv": (4, 8), "grid": 2}


def trained_run(folder: Path, problem_type: str, baselines: bool = True, **options: object) -> Run:
    """Train for an epoch on forty rows of images, audio and (except for streams) text.

    Args:
        problem_type: binary, multiclass, multilabel, regression or steps.
        options: fields of ModelConfig.
    """
    rows = []
    for number in range(40):
        name = f"{number}"
        write_image(folder / f"{name}.png", number)
        write_clip(folder / f"{name}.wav", 0.1 + 0.01 * (number % 7), 300 + 600 * (number % 2))
        text = "一 word" + " and another" * (number % 4)
        row = {"image": f"{name}.png", "audio": f"{name}.wav", "text": text}
        label: object = "yes" if number % 2 else "no"
        if problem_type == "multiclass":
            label = str(number % 3)
        elif problem_type == "multilabel":
            label = "|".join(each for each in ("<red>", "blue") if (number + len(each)) % 3)
        elif problem_type == "regression":
            label = 10 + number / 7
        elif problem_type == "steps":
            steps = 1 + number % 5
            row["image"] = [f"{name}.png"] * steps
            label = [str((number + step) % 3) for step in range(steps)]
            del row["text"]
        rows.append(row | {"label": label})
    manifest = read_manifest(
        write_jsonl(folder / "manifest.jsonl", rows), problem_type=problem_type
    )
    config = FitConfig(
        DATA, OPTIONS | options, TrainConfig(epochs=1, batch_size=8), baselines=baselines
    )
    return fit(manifest, folder / "run", config, console=Console(quiet=True))
