"""A run: train the fusion and its baselines on a manifest, and save them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from .. import checkpoint, files
from ..config.options import as_tuple
from ..config.preprocessing import Preprocessing
from ..config.pretrained_files import read_pretrained
from ..config.schema import FitConfig, RunConfig
from ..data.bad_rows import SKIPPED
from ..data.dataset import FusionDataset, load_datasets
from ..data.loader import check_files
from ..data.manifest import Manifest, read_manifest
from ..data.processor import TOKENIZER, Processor
from ..data.splits import SPLIT, read_split, split_rows
from ..data.text import load_tokenizer
from ..errors import ConfigError
from ..models.imported import check_imported, import_encoders
from ..run_lock import CALL, Lock
from ..strings import plural
from . import dry_run, loggers, state
from .baselines import Run, configure, finished, train_all, variants
from .callbacks import Callback
from .declared import declarations, saved
from .describe import describe, describe_split, left_out
from .devices import make_accelerator
from .loggers import METRICS
from .state import Call


def fit(
    manifest: Manifest,
    output_dir: str | Path,
    config: FitConfig | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train on a manifest and save every model in `output_dir`, with metrics.jsonl.

    Under torchrun the processes share the work; only the first writes and prints.

    Args:
        manifest: the training table.
        output_dir: the run's folder, which must not contain an earlier run.
        config: all options.
        resume: continue the same call if it was interrupted, even by SIGKILL; otherwise begin. A
            resumed run is bit-identical to an uninterrupted one, except for its timings.
        console: where to print.
        callbacks: called after every epoch of every model; see callbacks.Callback.

    Raises:
        FusionError: the manifest, one of its files or an option cannot be used; the folder already
            contains a run; or the run to resume began with other arguments or is in training in
            another process.
        OSError: the folder cannot be written, or the disk is full; a run that has begun can be
            resumed.
    """
    config, folder = config or FitConfig(), Path(output_dir)
    accelerator = make_accelerator(config.train.precision, config.report_to, folder)
    main = accelerator.is_main_process
    console = (console or Console()) if main else Console(quiet=True)
    call = _call(manifest, config)
    with Lock(folder) as lock:
        if resume and main:
            lock.take()
        before = state.begun(folder) if resume else None
        complete = resume and before is None and (folder / METRICS).is_file()
        if before is not None:
            state.check(folder, before, call)
        elif not complete:
            keep_earlier_run(folder)
        run, given = _load(manifest, folder, config, accelerator, console)
        if before is not None:
            _check_skipped(run, manifest)
        # First barrier: every process has read the folder before the first one writes to it.
        # Second barrier: the files are complete before any process reads them.
        accelerator.wait_for_everyone()
        if main and not complete:
            lock.take(make=True)
            if before is None:
                keep_earlier_run(folder)  # another call may have begun one in the meantime
            _begin(run, manifest, call)
        accelerator.wait_for_everyone()
        if complete:
            if main:
                state.clear(folder)  # a kill may have left a part of the checkpoint
            records = loggers.read(folder / METRICS)
            run.trained.extend(
                finished(folder, name, records, accelerator) for name in run.config.models
            )
            return run
        train_all(run, config, given, accelerator, console, callbacks)
        return run


def _call(manifest: Manifest, config: FitConfig) -> Call:
    """Return the call to save, with the path of the table and its root."""
    if config.init_from is not None:
        config = replace(config, init_from=str(Path(config.init_from).resolve()))
    return Call(
        config=config,
        columns=dict(manifest.columns),
        problem_type=manifest.problem_type,
        rows=state.fingerprint(manifest),
        manifest=_path(manifest),
        root=str(manifest.root.resolve()),
    )


def _path(manifest: Manifest) -> str:
    """Return the absolute path of the table, or "" if it is not a file."""
    return str(manifest.path.resolve()) if manifest.path.is_file() else ""


def _load(
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
    # Everything in the configuration is known, except vocabulary and variables.
    task = manifest.task.fit(manifest.labels(parts["train"]))
    known = Processor(config.data, task, manifest.modalities, manifest.stream)
    options = {**config.model, "pretrained": read_pretrained(config.model)}
    expected = variants(configure(manifest, known, options), config.baselines)
    start = source and (source.network, source.config.model)
    dry_run.check(expected, config.train, start, accelerator.device)
    loading = config.loading
    rows = parts["train"]
    declared = declarations(next(iter(expected.values())))
    processor = _processor(manifest, rows, folder, config, declared, source and source.processor)
    if loading.cache == "disk":
        folder.mkdir(parents=True, exist_ok=True)
    datasets = load_datasets(
        manifest,
        parts,
        processor,
        on_bad_row=loading.on_bad_row,
        cache=None if loading.cache == "none" else loading.cache,
        cache_size=loading.cache_size << 20,
        folder=folder,
    )
    if loading.check or loading.on_bad_row == "skip":
        datasets = _checked(datasets, config, console)
    describe_split(manifest, datasets, config.train.seed, console)
    options["pretrained"] = saved(options["pretrained"])
    model = configure(manifest, processor, options)
    run_config = RunConfig(
        model=model,
        train=config.train,
        models=tuple(variants(model, config.baselines)),
        columns=dict(manifest.columns),
        manifest=_path(manifest),
        root=str(manifest.root.resolve()),
    )
    given = None if source is None else source.network.state_dict()
    return Run(folder, run_config, processor, parts, datasets, []), given


def _processor(
    manifest: Manifest,
    rows: Sequence[int],
    folder: Path,
    config: FitConfig,
    declared: Mapping[str, Preprocessing],
    source: Processor | None,
) -> Processor:
    """Learn from the training rows what the source, or the run to resume, does not know."""
    saved = folder / TOKENIZER
    tokenizer = source.tokenizer if source else None
    return Processor.fit(
        manifest,
        rows,
        config.data,
        load_tokenizer(saved) if saved.is_file() else tokenizer,
        tabular=source.tabular if source else (),
        preprocessing=declared,
        on_bad_row=config.loading.on_bad_row,
    )


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


def _begin(run: Run, manifest: Manifest, call: Call) -> None:
    """Write the files of a run that do not depend on its training."""
    state.begin(run.folder, call)
    checkpoint.save_config(run.folder, run.config, run.processor)
    files.write_json(run.folder / SPLIT, run.parts)
    skipped = left_out(manifest, run.datasets)
    if skipped:
        files.write(run.folder / SKIPPED, "".join(json.dumps(each) + "\n" for each in skipped))


def _check_skipped(run: Run, manifest: Manifest) -> None:
    """Check that a resumed run leaves out the same rows as when it started.

    Raises:
        ConfigError: a file has been damaged or repaired; the message names a row.
    """
    path = run.folder / SKIPPED
    before = {each["where"] for each in (files.read_jsonl(path) if path.is_file() else [])}
    now = {each["where"] for each in left_out(manifest, run.datasets)}
    if before != now:
        row = min(before ^ now)
        became = "can be used now" if row in before else "cannot be used any more"
        raise ConfigError(
            f"{run.folder}: {row} {became}, so the run would go on with other rows than it started "
            "with; restore its files, or start a new run"
        )


def resume(
    folder: str | Path,
    console: Console | None = None,
    *,
    num_workers: int | None = None,
    callbacks: Sequence[Callback] = (),
    encoders: Mapping[str, str] | None = None,
) -> Run:
    """Resume an interrupted run with the arguments of its `fit`.

    Args:
        folder: the run's folder.
        console: where to print.
        num_workers: number of processes that decode files; as in the `fit` by default.
        callbacks: called after every epoch of every model.
        encoders: the custom encoders of the run; see checkpoint.load.

    Raises:
        ConfigError: the folder contains no interrupted run, or its table is not a file.
        FusionError: as for `fit`.
    """
    folder = Path(folder)
    call = state.begun(folder)
    if call is None:
        if (folder / METRICS).is_file():
            raise ConfigError(f"{folder}: the run is complete; there is nothing to resume")
        raise ConfigError(f"{folder}: contains no interrupted run; give the folder of one")
    if not call.manifest:
        raise ConfigError(
            f"{folder}: the run was trained on a table that is not a file; call fit with the same "
            "arguments and resume=True"
        )
    config = call.config
    import_encoders(encoders or {})
    check_imported(dict(as_tuple("encoders", config.model.get("encoders", ()))))
    manifest = read_manifest(
        call.manifest,
        call.columns,
        call.root,
        problem_type=call.problem_type,
        on_bad_row=config.loading.on_bad_row,
        infer=(),
    )
    if num_workers is not None:
        config = replace(config, loading=replace(config.loading, num_workers=num_workers))
    return fit(manifest, folder, config, resume=True, console=console, callbacks=callbacks)


def keep_earlier_run(folder: Path, names: Iterable[str] = ()) -> None:
    """Reject a folder that contains a run, so that it is not overwritten.

    Args:
        names: other files that the folder must not contain.

    Raises:
        ConfigError: the folder contains a run or one of these files, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose a folder with --output-dir")
    for name in (CALL, *names, METRICS, *checkpoint.FILES):
        if (folder / name).exists():
            remedy = "resume it, or " if name == CALL else ""
            raise ConfigError(
                f"{folder} already contains {name}; {remedy}choose another folder with --output-dir"
            )
