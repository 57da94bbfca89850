"""A run: train the fusion and its baselines on a manifest, and save them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from .. import checkpoint, files
from ..config.options import as_tuple
from ..config.schema import FitConfig
from ..data.bad_rows import SKIPPED
from ..data.fingerprint import fingerprint
from ..data.manifest import Manifest, read_manifest
from ..data.splits import SPLIT, fold_rows
from ..errors import ConfigError
from ..inference import outputs
from ..models.imported import check_imported, import_encoders
from ..run_lock import CALL, Lock
from . import loggers, state
from .baselines import Run, finished, train_all
from .callbacks import Callback
from .describe import left_out
from .devices import check_shared, make_accelerator
from .folds import CROSS_VALIDATION, cross_validate, fold
from .prepare import path_of, prepare
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

    With `config.folds`, the run is also cross-validated first; see folds.cross_validate.

    Under torchrun the processes share the work; only the first writes and prints.

    Args:
        manifest: the training table.
        output_dir: the run's folder, which must not contain an earlier run. Processes on several
            hosts need a shared disk.
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
    splits = fold_rows(manifest, config.folds, config.train.seed) if config.folds else []
    own = [fold(1)] if splits else []
    with Lock(folder) as lock:
        if resume and main:
            lock.take()
        before = state.begun(folder) if resume else None
        complete = resume and before is None and (folder / checkpoint.METRICS).is_file()
        check_shared(accelerator, folder, (before is not None, complete))
        if before is not None:
            state.check(folder, before, call)
        elif not complete:
            keep_earlier_run(folder, own)
        run, given = prepare(manifest, folder, config, accelerator, console)
        if before is not None:
            _check_skipped(run, manifest)
        # First barrier: every process has read the folder before the first one writes to it.
        # Second barrier: the files are complete before any process reads them.
        accelerator.wait_for_everyone()
        if main and not complete:
            lock.take(make=True)
            if before is None:
                keep_earlier_run(folder, own)  # another call may have begun one in the meantime
            _begin(run, manifest, call)
        accelerator.wait_for_everyone()
        if complete:
            return _complete(run, accelerator)
        if splits:
            one = partial(fit, manifest, resume=True, console=console, callbacks=callbacks)
            found = cross_validate(splits, folder, config, one, accelerator, console)
            run = replace(run, cross_validation=found)
        train_all(run, config, given, accelerator, console, callbacks)
        tuned = run.trained[0].threshold
        return run if tuned is None else replace(run, config=replace(run.config, threshold=tuned))


def _complete(run: Run, accelerator: Accelerator) -> Run:
    """Add the results of a run that is complete."""
    if accelerator.is_main_process:
        state.clear(run.folder)  # a kill may have left a part of the checkpoint
    records = loggers.read(run.folder / checkpoint.METRICS)
    run.trained.extend(
        finished(run.folder, name, records, accelerator) for name in run.config.models
    )
    run.classical.extend(outputs.load(run.folder))
    path = run.folder / CROSS_VALIDATION
    return replace(run, cross_validation=files.read_json(path)) if path.is_file() else run


def _call(manifest: Manifest, config: FitConfig) -> Call:
    """Return the call to save, with the path of the table and its root."""
    if config.init_from is not None:
        config = replace(config, init_from=str(Path(config.init_from).resolve()))
    return Call(
        config=config,
        columns=dict(manifest.columns),
        problem_type=manifest.problem_type,
        rows=fingerprint(manifest),
        manifest=path_of(manifest),
        root=str(manifest.root.resolve()),
    )


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
        if (folder / checkpoint.METRICS).is_file():
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
    for name in (CALL, *names, checkpoint.METRICS, *checkpoint.FILES):
        if (folder / name).exists():
            remedy = "resume it, or " if name == CALL else ""
            raise ConfigError(
                f"{folder} already contains {name}; {remedy}choose another folder with --output-dir"
            )
