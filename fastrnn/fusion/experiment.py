"""A run: read a manifest, train the fusion and what it must beat, save the fusion.

A fused model alone says little: perhaps one modality suffices, or no memory is needed. So the same
rows also train each modality alone, late fusion, and the fusion without its recurrent layer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import checkpoint, objective
from .config import DataConfig, ModelConfig, RunConfig, TrainConfig
from .data import IGNORE, Examples, Preprocessor
from .errors import ConfigError
from .log import Log
from .manifest import Manifest
from .network import single
from .split import split_rows
from .train import Trained, train

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """What a fit left behind. The first of `trained` is the model that was saved."""

    folder: Path
    config: RunConfig
    preprocessor: Preprocessor
    examples: Mapping[str, Examples]
    trained: list[Trained]


def fit(
    manifest: Manifest,
    folder: Path,
    data: DataConfig | None = None,
    training: TrainConfig | None = None,
    options: Mapping[str, Any] | None = None,
    baselines: bool = True,
    console: Console | None = None,
) -> Run:
    """Train on a manifest and save the model in `folder`, with metrics.jsonl.

    Args:
        options: fields of ModelConfig that are the caller's to choose; the data decide the rest.
        baselines: also train what the model is to be compared with.

    Raises:
        FusionError: the manifest, one of its files or an option cannot be used, or the folder
            holds a run already.
    """
    data, training = data or DataConfig(), training or TrainConfig()
    console = console or Console()
    keep_what_is_there(folder, (METRICS, *checkpoint.FILES))
    parts = split_rows(manifest, training.seed)
    describe(manifest, parts, training.seed, console)
    start = time.perf_counter()
    preprocessor = Preprocessor.fit(manifest, parts["train"], data)
    examples = {name: preprocessor.load(manifest, rows) for name, rows in parts.items()}
    size = sum(each.megabytes for each in examples.values())
    seconds = time.perf_counter() - start
    console.print(f"Decoded once and kept in memory: {size:.0f} MB, in {seconds:.1f} s")
    cut = sum(each.texts_cut for each in examples.values())
    if cut:
        console.print(f"{cut} texts were cut after {data.max_tokens} tokens")
    model = configure(manifest, preprocessor, options or {})
    config = RunConfig(data, model, training, preprocessor.labels, dict(manifest.columns))
    folder.mkdir(parents=True, exist_ok=True)
    trained = []
    with Log(folder / METRICS, console) as log:
        for name, variant in variants(model, baselines).items():
            trained.append(train(name, variant, training, examples, log))
    checkpoint.save(folder, config, trained[0].model, preprocessor)
    return Run(folder, config, preprocessor, examples, trained)


def keep_what_is_there(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder that has a file of these names: an earlier run is not to be overwritten.

    Raises:
        ConfigError: it has one.
    """
    for name in names:
        if (folder / name).exists():
            raise ConfigError(f"{folder} holds {name} already; choose another folder with --out")


def describe(
    manifest: Manifest, parts: Mapping[str, list[int]], seed: int, console: Console
) -> None:
    """Say what was inferred, so that a wrong guess is seen before it costs an hour."""
    say = console.out  # plain: a path is no markup
    say(f"{manifest.path}: {len(manifest.rows)} rows{' of steps' if manifest.stream else ''}")
    say("  columns: " + ", ".join(f"{role} = {name}" for role, name in manifest.columns.items()))
    if manifest.ignored:
        say("  ignored: " + ", ".join(manifest.ignored))
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
    how = (
        f"as {manifest.columns['split']} says"
        if "split" in manifest.columns
        else (f"dealt by seed {seed}, labels in proportion")
    )
    say(f"  split: {sizes} ({how})")


def configure(
    manifest: Manifest, preprocessor: Preprocessor, options: Mapping[str, Any]
) -> ModelConfig:
    """The model for a manifest: what its rows and labels ask for, and the caller's options."""
    labels = len(preprocessor.labels)
    kind = "steps" if manifest.per_step else "binary" if labels == 2 else "multiclass"
    return ModelConfig(
        modalities=manifest.modalities,
        kind=kind,
        outputs=objective.outputs(kind, labels),
        stream=manifest.stream,
        image_size=preprocessor.config.image_size,
        image_channels=preprocessor.config.image_channels,
        mels=preprocessor.config.mels,
        vocabulary=preprocessor.vocabulary,
        **{"fusion": "aligned" if manifest.stream else "tokens", **options},
    )


def variants(model: ModelConfig, baselines: bool = True) -> dict[str, ModelConfig]:
    """The model, and those it is compared with; name -> configuration."""
    several = len(model.modalities) > 1
    result = {"fusion" if several else f"{model.modalities[0]} only": model}
    if not baselines:
        return result
    if several:
        result |= {f"{name} only": single(model, name) for name in reversed(model.modalities)}
        if model.fusion != "late":
            result["late"] = replace(model, fusion="late")
        if model.fusion == "tokens":
            result["concat"] = replace(model, fusion="concat")
    if model.cell != "none":
        result["no recurrence"] = replace(model, cell="none")
    return result


def commonest(run: Run) -> float:
    """The accuracy of always answering the training rows' commonest label."""
    labels = run.config.labels
    counts = [0] * len(labels)
    for each in run.examples["train"].labels:
        for value in each.flatten().tolist():
            if value != IGNORE:
                counts[value] += 1
    answer = counts.index(max(counts))
    judged = [
        value
        for each in run.examples.get("test", run.examples["val"]).labels
        for value in each.flatten().tolist()
        if value != IGNORE
    ]
    return judged.count(answer) / len(judged)


def results(run: Run) -> Table:
    """Every model side by side."""
    split = "test" if "test" in run.examples else "val"
    rows = len(run.examples[split])
    table = Table(title=f"Accuracy on {rows} {split} rows", title_justify="left")
    table.add_column("model")
    for column in ("accuracy", "loss", "parameters", "seconds"):
        table.add_column(column, justify="right")
    for each in run.trained:
        table.add_row(
            each.name,
            f"{each.judged.score:.3f}",
            f"{each.judged.loss:.3f}",
            f"{each.parameters:,}",
            f"{each.seconds:.1f}",
        )
    table.add_row("commonest label", f"{commonest(run):.3f}", "", "", "")
    return table
