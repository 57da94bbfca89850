"""`fastrnn fit`: train on a table.

An option is taken from its flag, else from the --config file, else from --preset, else it has its
default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..config import options, options_file
from ..config.inputs import input_of, modality_of
from ..config.presets import PRESETS
from ..config.schema import PROBLEM_TYPES
from ..errors import ConfigError, DataError, FusionError, reason
from ..strings import plural
from . import options as flags
from .common import is_main_process, new_folder, set_threads
from .config_flags import COLUMNS, named_columns, with_columns, with_config

if TYPE_CHECKING:
    from ..data.manifest import Manifest
    from ..training.baselines import Run

OPTIONS_FILE = "config.yaml"
_NOT_SAVED = (
    "config_file",
    "output_dir",
    "resume",
    "yes",
)  # meaningless in a file that repeats a fit

ProblemType = Enum("ProblemType", {name: name for name in ("auto", *PROBLEM_TYPES)}, type=str)  # type: ignore[misc]
Preset = Enum("Preset", {name: name for name in PRESETS}, type=str)  # type: ignore[misc]
_AUTO, _DEFAULT = ProblemType("auto"), Preset("default")


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options of the file the defaults of the flags."""
    if path is not None:
        known = {str(each.name) for each in context.command.params} - {*_NOT_SAVED, "help"}
        context.default_map = {
            **(context.default_map or {}),
            **options_file.read(path, known),
        }
    return path


def _preset(context: typer.Context, preset: Enum) -> Enum:
    """Make the preset's options defaults too; those of a file take precedence in either order."""
    context.default_map = {
        **options_file.as_flags(options.preset(preset.value)),
        **(context.default_map or {}),
    }
    return preset


@with_config
@with_columns
def fit(
    context: typer.Context,
    manifest: Annotated[
        Path | None,
        typer.Argument(
            parser=flags.location,
            metavar="MANIFEST",
            help=flags.TABLE,
            show_default=False,
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            parser=flags.path,
            metavar="FILE",
            callback=_config,
            is_eager=True,
            help="A YAML file of these options; flags override it.",
        ),
    ] = None,
    preset: Annotated[
        Preset,
        typer.Option(
            callback=_preset,
            is_eager=True,
            help="Default options; the file and flags override them.",
        ),
    ] = _DEFAULT,
    root: flags.Root = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Column that has no role; may be repeated.",
            rich_help_panel="Columns",
        ),
    ] = None,
    problem_type: Annotated[
        ProblemType, typer.Option(help="Type of the labels; auto infers and prints it.")
    ] = _AUTO,
    output_dir: flags.OutputDir = None,
    baselines: Annotated[
        bool,
        typer.Option(
            help="Also train simpler models: each modality alone, late fusion, no recurrence, and "
            "those of scikit-learn."
        ),
    ] = True,
    folds: Annotated[
        int, typer.Option(min=0, max=1000, help="Also cross-validate, with this many folds.")
    ] = 0,
    init_from: Annotated[
        Path | None,
        typer.Option(
            parser=flags.path,
            metavar="RUN",
            help="Initialise with the weights of this run where names and shapes agree.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=flags.path,
            metavar="RUN",
            help="Resume an interrupted run with its options, except --num-workers, --threads "
            "and --encoders.",
        ),
    ] = None,
    threads: flags.Threads = None,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER",
            help="Also log the metrics to tensorboard, wandb or mlflow; may be repeated.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    **values: Any,
) -> None:
    """Train on a labelled table of images, audio, text, series, numbers and categories.

    Columns are recognised by name (image, audio, text, series, label, split, group), by file
    extension or by content, or are named by the options, as in --image front --image back. Paths
    are relative to the manifest. Without a split column, rows are split 80/10/10 at random by
    --seed, stratified by label. An empty cell is a missing modality.

    A stream is a row with several images, given as a JSON list: ["1.png", "2.png"]. Its label may
    be a list too, with one label per step and null for steps without a label. Its audio file is
    divided into as many equal parts as there are steps.

    Files are decoded when they are needed, and kept up to --cache-size.
    """
    from ..data.manifest import read_manifest
    from ..training import run as training_run

    set_threads(threads)
    console = Console(quiet=not is_main_process())
    if resume is not None:
        _resume(context, resume, values, console)
        return
    if manifest is None:
        raise ConfigError("give a MANIFEST: a CSV, JSONL or Parquet file (fastrnn fit --help)")
    columns = named_columns(values)
    config = options.fit_config(
        {name: values[name] for name in options.OPTIONS},
        baselines=baselines,
        init_from=None if init_from is None else str(init_from),
        report_to=tuple(report_to or ()),
        folds=folds,
    )
    table = read_manifest(
        manifest,
        columns,
        root,
        problem_type=None if problem_type is _AUTO else problem_type.value,
        on_bad_row=config.loading.on_bad_row,
        ignore=ignore or (),
    )
    if not yes:
        confirm(table, columns)
    folder = output_dir or _default_folder(manifest)
    with _resumable(folder), _saved_options(folder, context):
        run = training_run.fit(table, folder, config, console=console)
    _report(run, console)


def _resume(context: typer.Context, folder: Path, values: dict[str, Any], console: Console) -> None:
    """Resume an interrupted run."""
    from ..training import run as training_run

    _reject_other_options(context, "resume", "threads", "num_workers", "encoders")
    workers = values["num_workers"] if _is_given(context, "num_workers") else None
    encoders = dict(options.as_tuple("encoders", values["encoders"]))
    with _resumable(folder):
        run = training_run.resume(folder, console, num_workers=workers, encoders=encoders)
    _report(run, console)


def _default_folder(manifest: Path) -> Path:
    """Return a new folder, which several processes could not agree on.

    Raises:
        ConfigError: there are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "several processes need a common folder for the run: give --output-dir FOLDER"
        )
    name = manifest.stem.split("{")[0].rstrip("-_.")  # without the numbers of shards
    return new_folder(name or "shards")


def confirm(table: Manifest, named: Container[str]) -> None:
    """On a terminal, print the inferred columns and ask for confirmation.

    Raises:
        typer.Abort: the answer is no.
    """
    guessed = {role: name for role, name in table.columns.items() if modality_of(role) not in named}
    if not guessed or not sys.stdin.isatty() or not is_main_process():
        return
    skipped = f", {len(table.skipped)} skipped" if table.skipped else ""
    labels = table.task.describe(table.labels())
    print(
        f"{table.path}: {plural(len(table), 'row')}{skipped}; {table.problem_type} labels: {labels}"
    )
    for role, name in guessed.items():
        reason, flag = table.reasons.get(name, ""), modality_of(role)
        print(f"  {input_of(role)} = {name} (inferred: {reason}; override with --{flag} NAME)")
    typer.confirm("Train on these columns?", default=True, abort=True)


@contextmanager
def _saved_options(folder: Path, context: typer.Context) -> Iterator[None]:
    """Save the options in the run's folder, and remove them if the run does not begin."""
    from .. import checkpoint
    from ..run_lock import CALL
    from ..training import run as training_run
    from ..training import state

    if not is_main_process():
        yield
        return
    training_run.keep_earlier_run(folder, [OPTIONS_FILE])
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OPTIONS_FILE
    path.touch(exist_ok=False)  # two concurrent runs cannot share a folder
    try:
        options_file.write(path, _options_to_save(context))
        yield
    except BaseException:
        if not any((folder / name).exists() for name in (CALL, checkpoint.METRICS)):
            path.unlink()
            state.clear(folder)
            if created and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _options_to_save(context: typer.Context) -> dict[str, Any]:
    """Return the options in the order of the help, with paths that hold in any folder."""
    names = [str(each.name) for each in context.command.params]
    chosen = {name: context.params[name] for name in names if name in context.params}
    return {
        name: value.resolve() if isinstance(value, Path) else value
        for name, value in chosen.items()
        if name not in _NOT_SAVED and (value or name not in (*COLUMNS, "ignore"))
    }


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """After Ctrl-C, a full disk or a file that cannot be used, say in one line how to resume."""
    from .. import run_lock

    try:
        yield
    except KeyboardInterrupt:
        message = (
            run_lock.unfinished(folder)
            or f"{folder}: the run was interrupted before training began"
        )
        if is_main_process():
            print(message, file=sys.stderr)
        raise typer.Exit(130) from None
    except DataError as error:
        if not run_lock.unfinished(folder):
            raise
        how = run_lock.command(folder)
        raise FusionError(f"{error}; after restoring the file, resume with: {how}") from error
    except OSError as error:
        message = reason(error)
        if run_lock.unfinished(folder):
            message += f"; fix that, then resume it with: {run_lock.command(folder)}"
        raise FusionError(message) from error


def _reject_other_options(context: typer.Context, *allowed: str) -> None:
    """Reject options other than `allowed`, whose first one excludes all others.

    Raises:
        ConfigError: another option was given; the message names it.
    """
    for each in context.command.params:
        if each.name not in allowed and _is_given(context, str(each.name)):
            name = each.opts[0] if each.opts else each.name
            raise ConfigError(f"--{allowed[0]} uses the options of the run; remove {name}")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _report(run: Run, console: Console) -> None:
    """Print and plot the results of a run."""
    from ..models.summary import note
    from ..plots import metrics as plot
    from ..report.console import cross_validation, results
    from ..report.html import score_name

    if not is_main_process():
        return
    console.print(results(run))
    if run.cross_validation is not None:
        console.print(cross_validation(run.cross_validation))
    console.out(f"{run.trained[0].name}: {note(run.config.model)}")
    score = score_name(run.processor.task.score_name)
    path = run.folder / "curves.png"
    plot.curves(run.trained, path, run.folder.name, score_name=score)
    console.out(f"Saved in {run.folder}: config.json, model.safetensors, metrics.jsonl, curves.png")
    console.out(f"Next: fastrnn evaluate {quote(str(run.folder))}")
