"""Prepare a fit: split the rows, learn the processor, check the options and decide defaults."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from .. import checkpoint
from ..config import parser
from ..config.preprocessing import Preprocessing
from ..config.pretrained_files import read_pretrained
from ..config.schema import FitConfig, RunConfig
from ..data.dataset import FusionDataset, load_datasets
from ..data.loader import check_files
from ..data.manifest import Manifest
from ..data.processor import TOKENIZER, Processor
from ..data.readers import is_stored
from ..data.splits import SPLIT, read_split, split_rows
from ..data.text import load_tokenizer
from ..models.imported import import_encoders
from ..strings import plural
from . import augmentation, dry_run, objective
from .baselines import Run, configure, variants
from .declared import declarations, saved
from .describe import describe, describe_split
from .devices import resolve_precision, several_hosts
from .feature_cache import has_frozen_images
from .optimization import epochs_of, warmup_of


def path_of(manifest: Manifest) -> str:
    """Return the absolute path of the table, or "" if it is not a file."""
    return str(manifest.path.resolve()) if is_stored(manifest.path) else ""


def prepare(
    manifest: Manifest,
    folder: Path,
    config: FitConfig,
    accelerator: Accelerator,
    console: Console,
) -> tuple[Run, checkpoint.Weights | None]:
    """Split the rows, learn the processor and create the datasets.

    Returns:
        The run, and the weights to start from.
    """
    split = folder / SPLIT
    parts = read_split(split) if split.is_file() else split_rows(manifest, config.train.seed)
    describe(manifest, console)
    import_encoders(dict(config.model.get("encoders", ())))
    source = None if config.init_from is None else checkpoint.load(config.init_from)
    pretrained, rows = read_pretrained(config.model), parts["train"]
    config = replace(config, model={**config.model, "pretrained": pretrained})
    declared = _check_options(manifest, rows, config, source, accelerator.device)
    processor = _processor(manifest, rows, folder, config, declared, source and source.processor)
    datasets = _datasets(manifest, parts, processor, folder, config)
    if config.loading.check or config.loading.on_bad_row == "skip":
        datasets = _checked(datasets, config, console)
    describe_split(manifest, datasets, config.train.seed, console)
    model = configure(manifest, processor, {**config.model, "pretrained": saved(pretrained)})
    # Features are not cached with the weights of another run.
    frozen = source is None and has_frozen_images(model, config.train)
    images, reason = augmentation.choose(config.train, datasets["train"], frozen=frozen)
    if reason:
        console.out(f"  augment_images: {images} ({reason})")
    precision = resolve_precision(config.train.precision)
    earlier = folder / checkpoint.CONFIG  # of a resumed run, whose main model may be trained
    threshold = parser.read(RunConfig, earlier).threshold if earlier.is_file() else 0.5
    run_config = RunConfig(
        model=model,
        train=replace(
            config.train,
            augment_images=images,
            epochs=epochs_of(config.train, len(datasets["train"])),
            precision=precision,
        ),
        models=tuple(variants(model, config.baselines)),
        columns=dict(manifest.columns),
        manifest=path_of(manifest),
        root=str(manifest.root.resolve()),
        threshold=threshold,
    )
    given = None if source is None else source.network.state_dict()
    return Run(folder, run_config, processor, parts, datasets, []), given


def _datasets(
    manifest: Manifest,
    parts: Mapping[str, Sequence[int]],
    processor: Processor,
    folder: Path,
    config: FitConfig,
) -> dict[str, FusionDataset]:
    """Create the datasets of the splits, with one cache."""
    loading = config.loading
    # The folder of a run on several hosts is on a shared disk, which is slow for a cache.
    cache_folder = None if several_hosts() else folder
    if loading.cache == "disk" and cache_folder:
        cache_folder.mkdir(parents=True, exist_ok=True)
    return load_datasets(
        manifest,
        parts,
        processor,
        on_bad_row=loading.on_bad_row,
        cache=None if loading.cache == "none" else loading.cache,
        cache_size=loading.cache_size << 20,
        folder=cache_folder,
    )


def _processor(
    manifest: Manifest,
    rows: Sequence[int],
    folder: Path,
    config: FitConfig,
    declared: Mapping[str, Preprocessing],
    source: Processor | None,
) -> Processor:
    """Learn from the training rows what the source, or the run to resume, does not know."""
    earlier = folder / TOKENIZER
    tokenizer = source.tokenizer if source else None
    return Processor.fit(
        manifest,
        rows,
        config.data,
        load_tokenizer(earlier) if earlier.is_file() else tokenizer,
        tabular=source.tabular if source else (),
        preprocessing=declared,
        on_bad_row=config.loading.on_bad_row,
    )


def _check_options(
    manifest: Manifest,
    rows: Sequence[int],
    config: FitConfig,
    source: checkpoint.Loaded | None,
    device: torch.device,
) -> dict[str, Preprocessing]:
    """Check options that training would reject only after decoding files.

    Args:
        rows: the numbers of the training rows.

    Returns:
        What the encoders of inputs declare about their files.

    Raises:
        ConfigError: as objective.check, augmentation.check, optimization.warmup_of and
            dry_run.check.
    """
    task, training = manifest.task.fit(manifest.labels(rows)), config.train
    objective.check(task, training)
    steps = math.ceil(len(rows) / training.batch_size)
    warmup_of(training, epochs_of(training, len(rows)) * steps)
    # Everything in the configuration is known, except vocabulary and variables.
    known = Processor(config.data, task, manifest.modalities, manifest.stream)
    expected = variants(configure(manifest, known, config.model), config.baselines)
    declared = declarations(next(iter(expected.values())))
    augmentation.check(training, manifest.modalities, manifest.stream, declared)
    start = source and (source.network, source.config.model)
    dry_run.check(expected, training, start, device)
    return declared


def _checked(
    datasets: Mapping[str, FusionDataset], config: FitConfig, console: Console
) -> dict[str, FusionDataset]:
    """Decode every file once, and leave out the rows that cannot be used."""
    start = time.perf_counter()
    loading = config.loading
    found = {
        name: check_files(each, loading.on_bad_row, loading.num_workers)
        for name, each in datasets.items()
    }
    rows = sum(len(each) for each in found.values())
    seconds = time.perf_counter() - start
    console.print(f"Checked the files of {plural(rows, 'row')} in {seconds:.1f} s")
    return found
