"""A run: read a manifest, train the fusion and what it must beat, save the fusion.

A fused model alone says little: perhaps one modality suffices, or no memory is needed. So the same
rows also train each modality alone, late fusion, and the fusion without its recurrent layer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import checkpoint, dry_run, files, log, objective, runs
from . import resume as interrupted
from .config import DataConfig, ModelConfig, RunConfig, TrainConfig
from .data import IGNORE, Examples, Preprocessor
from .errors import ConfigError
from .groups import crossing_contents
from .kinds import summary
from .log import METRICS
from .manifest import Manifest, read_manifest
from .network import single
from .run_data import SPLIT, read_split
from .runs import Run
from .split import label_names, split_rows
from .text import load_tokenizer
from .train import find_devices, score_name
from .words import plural

SKIPPED = "skipped.jsonl"


def fit(
    manifest: Manifest,
    folder: Path,
    data: DataConfig | None = None,
    training: TrainConfig | None = None,
    options: Mapping[str, Any] | None = None,
    baselines: bool = True,
    console: Console | None = None,
    *,
    resume: bool = False,
    init_from: str | Path | None = None,
    workers: int = 0,
    on_bad_row: str = "error",
    tensorboard: bool = False,
) -> Run:
    """Train on a manifest and save every model in `folder`, with metrics.jsonl.

    Started by torchrun, its processes share the work; the first alone writes and prints.

    Args:
        options: fields of ModelConfig that are the caller's to choose; the data decide the rest.
        baselines: also train what the model is to be compared with.
        resume: where the same call was interrupted, even by a kill, go on from there; the rest is
            then what it would have been, bit for bit but for the seconds. Where it was not, begin.
        init_from: the folder of another run. The model (not its baselines) starts from that run's
            weights wherever name and shape agree, and reads text with that run's tokenizer.
        workers: processes that decode files.
        on_bad_row: "skip" leaves out rows whose files cannot be read, and lists them in
            skipped.jsonl.
        tensorboard: write the metrics for TensorBoard too.

    Raises:
        FusionError: the manifest, one of its files or an option cannot be used, the folder holds a
            run already, or one to be resumed that began otherwise or is in training elsewhere.
        OSError: the folder cannot be written, or the disk is full; a run that has begun can be
            resumed.
    """
    data, training = data or DataConfig(), training or TrainConfig()
    accelerator = find_devices(training.precision)
    if tensorboard:
        log.board_writer()  # before anything is written
    main = accelerator.is_main_process
    console = (console or Console()) if main else Console(quiet=True)
    folder = Path(folder)
    call = {
        "columns": dict(manifest.columns),
        "data": asdict(data),
        "train": asdict(training),
        "options": dict(options or {}),
        "baselines": baselines,
        "init_from": None if init_from is None else str(Path(init_from).resolve()),
        "on_bad_row": on_bad_row,
        "kind": manifest.kind,
        "rows": interrupted.fingerprint(manifest),
    }
    with interrupted.Lock(folder) as lock:
        if resume and main:
            lock.take()
        before = interrupted.begun(folder) if resume else None
        complete = resume and before is None and (folder / METRICS).is_file()
        if before is not None:
            interrupted.check(folder, before, call)
        elif not complete:
            _keep_earlier_run(folder)
        parts = _split(folder, manifest, training.seed)
        describe(manifest, console)
        source = None if init_from is None else checkpoint.load(init_from)
        # Of what the model is configured with, only tokens and series are not known yet.
        known = Preprocessor(data, label_names(manifest, parts["train"]), kind=manifest.kind)
        expected = variants(configure(manifest, known, options or {}), baselines)
        start = source and (source[0], source[2].model)
        dry_run.check(expected, training, start, accelerator.device)
        preprocessor = _tokenized_alike(
            Preprocessor.fit(
                manifest, parts["train"], data, on_bad_row=on_bad_row, workers=workers
            ),
            folder,
            source,
        )
        examples = _decode(manifest, parts, preprocessor, workers, on_bad_row, console)
        describe_split(manifest, examples, training.seed, console)
        model = configure(manifest, preprocessor, options or {})
        config = RunConfig(
            data,
            model,
            training,
            preprocessor.labels,
            dict(manifest.columns),
            target=getattr(preprocessor, "target", None),
            series=getattr(preprocessor, "series", ()),
            **_place(manifest),
        )
        # Nobody writes before all have looked, and nobody reads before all is written.
        accelerator.wait_for_everyone()
        if main and not complete:
            lock.take(make=True)
            if before is None:
                _keep_earlier_run(folder)  # another process may have begun one meanwhile
            others = {**_place(manifest), "workers": workers, "tensorboard": tensorboard}
            interrupted.begin(folder, call | others)
            checkpoint.save_config(folder, config, preprocessor)
            files.write_json(folder / SPLIT, parts)
            _list_skipped(folder, manifest, examples)
        accelerator.wait_for_everyone()
        given = None if source is None else source[0].state_dict()
        run = Run(folder, config, preprocessor, examples, [])
        if complete:
            if main:
                interrupted.clear(folder)  # a kill may have left some of it
            records = log.read(folder / METRICS)
            names = variants(model, baselines)
            run.trained.extend(runs.finished(folder, name, records, accelerator) for name in names)
            return run
        board = folder / "tensorboard" if tensorboard else None
        runs.train_all(run, variants(model, baselines), given, accelerator, console, board)
        return run


def _keep_earlier_run(folder: Path) -> None:
    keep_what_is_there(folder, (interrupted.CALL, METRICS, *checkpoint.FILES))


def _split(folder: Path, manifest: Manifest, seed: int) -> dict[str, list[int]]:
    """The split that the run began with, or a new one."""
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT)
    return split_rows(manifest, seed)


def _place(manifest: Manifest) -> dict[str, str]:
    """Where the rows came from: RunConfig's `manifest`, empty where it was no file, and `root`."""
    path = Path(manifest.path)
    root = Path(getattr(manifest, "root", path.parent))
    return {"manifest": str(path.resolve()) if path.is_file() else "", "root": str(root.resolve())}


def _tokenized_alike(
    preprocessor: Preprocessor, folder: Path, source: tuple[Any, Preprocessor, RunConfig] | None
) -> Preprocessor:
    """The same with the tokenizer that the run began with, or that of the run it starts from."""
    file = folder / checkpoint.TOKENIZER
    tokenizer = load_tokenizer(file) if file.is_file() else source and source[1].tokenizer
    if preprocessor.tokenizer is None or not tokenizer:
        return preprocessor
    return replace(preprocessor, tokenizer=tokenizer)


def _decode(
    manifest: Manifest,
    parts: Mapping[str, list[int]],
    preprocessor: Preprocessor,
    workers: int,
    on_bad_row: str,
    console: Console,
) -> dict[str, Examples]:
    start = time.perf_counter()
    how: dict[str, Any] = {"workers": workers} if workers else {}
    if on_bad_row != "error":
        how["on_bad_row"] = on_bad_row
    examples = {name: preprocessor.load(manifest, rows, **how) for name, rows in parts.items()}
    size = sum(each.megabytes for each in examples.values())
    seconds = time.perf_counter() - start
    console.print(f"Decoded once and kept in memory: {size:.0f} MB, in {seconds:.1f} s")
    cut = sum(each.texts_cut for each in examples.values())
    if cut:
        limit = preprocessor.config.max_tokens
        console.print(f"{plural(cut, 'text')} cut after {plural(limit, 'token')}")
    return examples


def _left_out(manifest: Manifest, examples: Mapping[str, Examples]) -> list[dict[str, str]]:
    """Where and why, and the split, of all rows that could not be used; the split once dealt."""
    left_out = [{"where": where, "error": error} for where, error in manifest.skipped]
    for name, each in examples.items():
        left_out += [{"where": a, "error": b, "split": name} for a, b in each.skipped]
    return left_out


def _list_skipped(folder: Path, manifest: Manifest, examples: Mapping[str, Examples]) -> None:
    """skipped.jsonl, where a row was left out."""
    lines = [json.dumps(each) + "\n" for each in _left_out(manifest, examples)]
    if lines:
        files.write(folder / SKIPPED, "".join(lines))


def resume(folder: str | Path, console: Console | None = None) -> Run:
    """Go on with a run that was interrupted, by a kill or otherwise, as `fit` had been called.

    Raises:
        ConfigError: the folder holds no run that was interrupted, or its table is no file.
        FusionError: as `fit`.
    """
    folder = Path(folder)
    call = interrupted.begun(folder)
    if call is None:
        if (folder / METRICS).is_file():
            raise ConfigError(f"{folder}: the run is complete; there is nothing left to resume")
        raise ConfigError(f"{folder}: no run was interrupted there; give the folder of one")
    if not call.manifest:
        raise ConfigError(
            f"{folder}: the run was trained on a table that is no file; call fit with it, as "
            "before, and resume=True"
        )
    manifest = read_manifest(
        call.manifest, call.columns, call.root, kind=call.kind, on_bad_row=call.on_bad_row
    )
    return fit(
        manifest,
        folder,
        call.data,
        call.train,
        call.options,
        call.baselines,
        console,
        resume=True,
        init_from=call.init_from,
        workers=call.workers,
        on_bad_row=call.on_bad_row,
        tensorboard=call.tensorboard,
    )


def keep_what_is_there(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder that has a file of these names: an earlier run is not to be overwritten.

    Raises:
        ConfigError: it has one, or is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose a folder with --out")
    for name in names:
        if (folder / name).exists():
            mend = "resume it, or " if name == interrupted.CALL else ""
            raise ConfigError(
                f"{folder} holds {name} already; {mend}choose another folder with --out"
            )


def describe(manifest: Manifest, console: Console) -> None:
    """Say what was inferred, so that a wrong guess is seen before it costs an hour."""
    say = console.out  # plain: a path is no markup
    rows = plural(len(manifest.rows) + len(manifest.skipped), "row")
    say(f"{manifest.path}: {rows}{' of steps' if manifest.stream else ''}")
    say("  columns: " + ", ".join(f"{role} = {name}" for role, name in manifest.columns.items()))
    say(f"  labels: {manifest.kind}")
    for warning in manifest.warnings:
        say(f"  warning: {warning}")
    if manifest.ignored:
        say("  ignored: " + ", ".join(manifest.ignored))


def describe_split(
    manifest: Manifest, examples: Mapping[str, Examples], seed: int, console: Console
) -> None:
    """Say which rows there are to learn from and to judge on, without those that were left out."""
    say = console.out
    rows = [
        replace(manifest.rows[number], split=name)
        for name, each in examples.items()
        for number in each.rows
    ]
    say(f"  {manifest.kind} labels: " + summary(manifest.kind, [row.label for row in rows]))
    sizes = ", ".join(f"{len(each)} {name}" for name, each in examples.items())
    how = (
        f"as {manifest.columns['split']} says"
        if "split" in manifest.columns
        else (f"dealt by seed {seed}, labels in proportion")
    )
    say(f"  split: {sizes} ({how})")
    if "split" not in manifest.columns:  # else the manifest has this warning
        for warning in crossing_contents(rows):
            say(f"  warning: {warning}")
    left_out = _left_out(manifest, examples)
    if left_out:
        say(f"  {plural(len(left_out), 'row')} left out, see {SKIPPED}")


def configure(
    manifest: Manifest, preprocessor: Preprocessor, options: Mapping[str, Any]
) -> ModelConfig:
    """The model for a manifest: what its rows and labels ask for, and the caller's options."""
    labels = len(preprocessor.labels)
    return ModelConfig(
        modalities=manifest.modalities,
        kind=manifest.kind,
        outputs=objective.outputs(manifest.kind, labels),
        stream=manifest.stream,
        image_size=preprocessor.config.image_size,
        image_channels=preprocessor.config.image_channels,
        mels=preprocessor.config.mels,
        vocabulary=preprocessor.vocabulary,
        variables=preprocessor.variables,
        missing=manifest.missing,
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


def commonest(run: Run) -> float | None:
    """The accuracy of always answering the training rows' commonest label; None for numbers, and
    where a row may have several labels."""
    if run.config.model.kind not in ("binary", "multiclass", "steps"):
        return None
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
    score = score_name(run.config.model.kind)
    title = f"{score[0].upper()}{score[1:]} on {plural(rows, f'{split} row')}"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for column in (score, "loss", "parameters", "seconds"):
        table.add_column(column, justify="right")
    for each in run.trained:
        table.add_row(
            each.name,
            f"{each.judged.score:.3f}",
            f"{each.judged.loss:.3f}",
            f"{each.parameters:,}",
            f"{each.seconds:.1f}",
        )
    chance = commonest(run)
    if chance is not None:
        table.add_row("commonest label", f"{chance:.3f}", "", "", "")
    return table
