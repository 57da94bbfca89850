"""A run: train the fusion and its baselines on a manifest, and save them.

The score of a fused model alone says little: one modality may suffice, or no recurrence may be
needed. The baselines, trained on the same rows, are each modality alone, late fusion, and the
fusion without its recurrent layer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import checkpoint, files
from ..config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig
from ..data.groups import crossing_contents
from ..data.manifest import Manifest, read_manifest
from ..data.processor import Examples, Preprocessor
from ..data.splits import label_names, split_rows
from ..data.text import load_tokenizer
from ..errors import ConfigError
from ..evaluation.run_data import SPLIT, read_split
from ..models.network import single
from ..strings import plural
from ..tasks import objectives
from ..tasks.labels import summary
from . import baselines as runs
from . import dry_run
from . import loggers as log
from . import state as interrupted
from .baselines import Run
from .loggers import METRICS
from .trainer import find_devices

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
    num_workers: int = 0,
    on_bad_row: str = "error",
    tensorboard: bool = False,
) -> Run:
    """Train on a manifest and save every model in `folder`, with metrics.jsonl.

    Under torchrun the processes share the work; only the first writes and prints.

    Args:
        manifest: the training table.
        folder: the run's folder, which must not contain an earlier run.
        data: how files become tensors.
        training: the training options.
        options: fields of ModelConfig set by the caller; the others follow from the data.
        baselines: also train the baselines.
        console: where to print.
        resume: continue the same call if it was interrupted, even by SIGKILL; otherwise begin. A
            resumed run is bit-identical to an uninterrupted one, except for its timings.
        init_from: the folder of another run. The model (not its baselines) starts from that run's
            weights where names and shapes agree, and uses that run's tokenizer.
        num_workers: number of processes that decode files.
        on_bad_row: "skip" to leave out rows whose files cannot be read, and list them in
            skipped.jsonl.
        tensorboard: also write the metrics for TensorBoard.

    Raises:
        FusionError: the manifest, one of its files or an option cannot be used; the folder already
            contains a run; or the run to resume began with other arguments or is in training in
            another process.
        OSError: the folder cannot be written, or the disk is full; a run that has begun can be
            resumed.
    """
    data, training = data or DataConfig(), training or TrainConfig()
    accelerator = find_devices(training.precision)
    if tensorboard:
        log.board_writer()  # fails before anything is written if TensorBoard is missing
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
        "problem_type": manifest.problem_type,
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
        # Everything in the configuration is known, except vocabulary and variables.
        known = Preprocessor(
            data, label_names(manifest, parts["train"]), problem_type=manifest.problem_type
        )
        expected = variants(configure(manifest, known, options or {}), baselines)
        start = source and (source[0], source[2].model)
        dry_run.check(expected, training, start, accelerator.device)
        preprocessor = _tokenized_alike(
            Preprocessor.fit(
                manifest, parts["train"], data, on_bad_row=on_bad_row, num_workers=num_workers
            ),
            folder,
            source,
        )
        examples = _decode(manifest, parts, preprocessor, num_workers, on_bad_row, console)
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
        # First barrier: every process has read the folder before the first one writes to it.
        # Second barrier: the files are complete before any process reads them.
        accelerator.wait_for_everyone()
        if main and not complete:
            lock.take(make=True)
            if before is None:
                _keep_earlier_run(folder)  # another call may have begun one in the meantime
            others = {**_place(manifest), "num_workers": num_workers, "tensorboard": tensorboard}
            interrupted.begin(folder, call | others)
            checkpoint.save_config(folder, config, preprocessor)
            files.write_json(folder / SPLIT, parts)
            _list_skipped(folder, manifest, examples)
        accelerator.wait_for_everyone()
        given = None if source is None else source[0].state_dict()
        run = Run(folder, config, preprocessor, examples, [])
        if complete:
            if main:
                interrupted.clear(folder)  # a kill may have left a part of the checkpoint
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
    """Return the split that the run began with, or a new one."""
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT)
    return split_rows(manifest, seed)


def _place(manifest: Manifest) -> dict[str, str]:
    """Return the fields `manifest` (empty if it is no file) and `root` of RunConfig."""
    path = Path(manifest.path)
    root = Path(getattr(manifest, "root", path.parent))
    return {"manifest": str(path.resolve()) if path.is_file() else "", "root": str(root.resolve())}


def _tokenized_alike(
    preprocessor: Preprocessor, folder: Path, source: tuple[Any, Preprocessor, RunConfig] | None
) -> Preprocessor:
    """Use the tokenizer that the run began with, else that of the run it starts from."""
    file = folder / checkpoint.TOKENIZER
    tokenizer = load_tokenizer(file) if file.is_file() else source and source[1].tokenizer
    if preprocessor.tokenizer is None or not tokenizer:
        return preprocessor
    return replace(preprocessor, tokenizer=tokenizer)


def _decode(
    manifest: Manifest,
    parts: Mapping[str, list[int]],
    preprocessor: Preprocessor,
    num_workers: int,
    on_bad_row: str,
    console: Console,
) -> dict[str, Examples]:
    start = time.perf_counter()
    how: dict[str, Any] = {"num_workers": num_workers} if num_workers else {}
    if on_bad_row != "error":
        how["on_bad_row"] = on_bad_row
    examples = {name: preprocessor.load(manifest, rows, **how) for name, rows in parts.items()}
    size = sum(each.megabytes for each in examples.values())
    seconds = time.perf_counter() - start
    console.print(f"Decoded all files into memory: {size:.0f} MB, in {seconds:.1f} s")
    cut = sum(each.texts_cut for each in examples.values())
    if cut:
        limit = preprocessor.config.max_tokens
        console.print(f"{plural(cut, 'text')} truncated to {plural(limit, 'token')}")
    return examples


def _left_out(manifest: Manifest, examples: Mapping[str, Examples]) -> list[dict[str, str]]:
    """List the rows that cannot be used: where, the error, and the split if it is known."""
    left_out = [{"where": where, "error": error} for where, error in manifest.skipped]
    for name, each in examples.items():
        left_out += [{"where": a, "error": b, "split": name} for a, b in each.skipped]
    return left_out


def _list_skipped(folder: Path, manifest: Manifest, examples: Mapping[str, Examples]) -> None:
    """Write skipped.jsonl if rows were left out."""
    lines = [json.dumps(each) + "\n" for each in _left_out(manifest, examples)]
    if lines:
        files.write(folder / SKIPPED, "".join(lines))


def resume(
    folder: str | Path, console: Console | None = None, *, num_workers: int | None = None
) -> Run:
    """Resume an interrupted run with the arguments of its `fit`.

    Args:
        folder: the run's folder.
        console: where to print.
        num_workers: number of processes that decode files; as in the `fit` by default.

    Raises:
        ConfigError: the folder contains no interrupted run, or its table is not a file.
        FusionError: as for `fit`.
    """
    folder = Path(folder)
    call = interrupted.begun(folder)
    if call is None:
        if (folder / METRICS).is_file():
            raise ConfigError(f"{folder}: the run is complete; there is nothing to resume")
        raise ConfigError(f"{folder}: contains no interrupted run; give the folder of one")
    if not call.manifest:
        raise ConfigError(
            f"{folder}: the run was trained on a table that is not a file; call fit with the same "
            "arguments and resume=True"
        )
    manifest = read_manifest(
        call.manifest,
        call.columns,
        call.root,
        problem_type=call.problem_type,
        on_bad_row=call.on_bad_row,
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
        num_workers=call.num_workers if num_workers is None else num_workers,
        on_bad_row=call.on_bad_row,
        tensorboard=call.tensorboard,
    )


def keep_what_is_there(folder: Path, names: Iterable[str]) -> None:
    """Reject a folder that contains one of these files, so that no earlier run is overwritten.

    Raises:
        ConfigError: the folder contains one, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose a folder with --out")
    for name in names:
        if (folder / name).exists():
            remedy = "resume it, or " if name == interrupted.CALL else ""
            raise ConfigError(
                f"{folder} already contains {name}; {remedy}choose another folder with --out"
            )


def describe(manifest: Manifest, console: Console) -> None:
    """Print what was inferred, so that a wrong guess is noticed before training."""
    say = console.out  # without markup, which a path could contain
    rows = plural(len(manifest.rows) + len(manifest.skipped), "row")
    say(f"{manifest.path}: {rows}{' (sequences of steps)' if manifest.stream else ''}")
    say("  columns: " + ", ".join(f"{role} = {name}" for role, name in manifest.columns.items()))
    say(f"  labels: {manifest.problem_type}")
    for warning in manifest.warnings:
        say(f"  warning: {warning}")
    if manifest.ignored:
        say("  ignored: " + ", ".join(manifest.ignored))


def describe_split(
    manifest: Manifest, examples: Mapping[str, Examples], seed: int, console: Console
) -> None:
    """Print the labels and the sizes of the splits, without the rows that were left out."""
    say = console.out
    rows = [
        replace(manifest.rows[number], split=name)
        for name, each in examples.items()
        for number in each.rows
    ]
    say(
        f"  {manifest.problem_type} labels: "
        + summary(manifest.problem_type, [row.label for row in rows])
    )
    sizes = ", ".join(f"{len(each)} {name}" for name, each in examples.items())
    how = (
        f"from column {manifest.columns['split']}"
        if "split" in manifest.columns
        else (f"random with seed {seed}, stratified by label")
    )
    say(f"  split: {sizes} ({how})")
    if "split" not in manifest.columns:  # otherwise the manifest already has this warning
        for warning in crossing_contents(rows):
            say(f"  warning: {warning}")
    left_out = _left_out(manifest, examples)
    if left_out:
        say(f"  {plural(len(left_out), 'row')} skipped, see {SKIPPED}")


def configure(
    manifest: Manifest, preprocessor: Preprocessor, options: Mapping[str, Any]
) -> ModelConfig:
    """Create the model's configuration from the manifest, the preprocessor and the options."""
    labels = len(preprocessor.labels)
    return ModelConfig(
        modalities=manifest.modalities,
        problem_type=manifest.problem_type,
        outputs=objectives.outputs(manifest.problem_type, labels),
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
    """Return the model and its baselines, name -> configuration."""
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
