"""`fastrnn fit`: train on a table.

An option is taken from its flag, else from the --config file, else from --preset, else it has its
default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..config import options
from ..config.presets import PRESETS
from ..config.schema import PROBLEM_TYPES
from ..errors import ConfigError, FusionError, reason
from ..strings import plural
from . import options as flags

if TYPE_CHECKING:
    from ..data.manifest import Manifest
    from ..training.run import Run

ECHO = "config.yaml"
_UNSAID = ("config", "out", "resume", "yes")  # meaningless in a file that repeats a fit

Kind = Enum("Kind", {name: name for name in ("auto", *PROBLEM_TYPES)}, type=str)  # type: ignore[misc]
Preset = Enum("Preset", {name: name for name in PRESETS}, type=str)  # type: ignore[misc]
_AUTO, _DEFAULT = Kind("auto"), Preset("default")


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options of the file the defaults of the flags."""
    if path is not None:
        known = [str(each.name) for each in context.command.params if each.name not in _UNSAID]
        read = options.read_yaml(path, set(known) - {"help"})
        context.default_map = {**(context.default_map or {}), **read}
    return path


def _preset(context: typer.Context, preset: Enum) -> Enum:
    """Make the preset's options defaults too; those of a file take precedence in either order."""
    context.default_map = {
        **options.as_flags(options.preset(preset.value)),
        **(context.default_map or {}),
    }
    return preset


@options.with_fields
@options.with_columns
def fit(
    context: typer.Context,
    manifest: Annotated[
        Path | None,
        typer.Argument(
            parser=flags.path,
            metavar="MANIFEST",
            help="A CSV, JSONL or Parquet file.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
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
    problem_type: Annotated[
        Kind, typer.Option(help="Type of the labels; auto infers and prints it.")
    ] = _AUTO,
    out: flags.Out = None,
    baselines: Annotated[
        bool, typer.Option(help="Also train each modality alone, late fusion, and no recurrence.")
    ] = True,
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
            help="Resume an interrupted run with its options, except --num-workers and --threads.",
        ),
    ] = None,
    on_bad_row: flags.BadRow = flags.OnBadRow.error,
    num_workers: flags.Workers = 0,
    threads: flags.Threads = None,
    tensorboard: Annotated[
        bool, typer.Option(help="Also write the metrics for TensorBoard.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    **values: Any,
) -> None:
    """Train on a labelled table of images, audio, text and series; compare with baselines.

    Columns are recognised by name (image, audio, text, series, label, split, group) or by file
    extension, or are named by the options. Paths are relative to the manifest. Without a split
    column, rows are split 80/10/10 at random by --seed, stratified by label. An empty cell is a
    missing modality.

    A stream is a row with several images, given as a JSON list: ["1.png", "2.png"]. Its label may
    be a list too, with one label per step and null for steps without a label. Its audio file is
    divided into as many equal parts as there are steps.

    Files are decoded once and kept in memory.
    """
    from ..data.manifest import read_manifest
    from ..training import run as experiment

    flags.set_threads(threads)
    console = Console(quiet=not flags.leads())
    if resume is not None:
        _nothing_else(context, "resume", "threads", "num_workers")
        with _resumable(resume):
            processes = num_workers if _given(context, "num_workers") else None
            run = experiment.resume(resume, console, num_workers=processes)
        _finish(run, console)
        return
    if manifest is None:
        raise ConfigError("give a MANIFEST: a CSV, JSONL or Parquet file (fastrnn fit --help)")
    named = flags.named_columns(values)
    data, model, training = options.sections({name: values[name] for name in options.NAMES})
    table = read_manifest(
        manifest,
        named,
        root,
        problem_type=None if problem_type is _AUTO else problem_type.value,
        on_bad_row=on_bad_row.value,
    )
    if not yes:
        confirm(table, named)
    if out is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("several processes need a common folder for the run: give --out FOLDER")
    folder = out or flags.new_folder(manifest.stem)
    order = [str(each.name) for each in context.command.params]
    chosen = {name: context.params[name] for name in order if name in context.params}
    with _resumable(folder), _echoed(folder, chosen):
        run = experiment.fit(
            table,
            folder,
            data,
            training,
            model,
            baselines,
            console,
            init_from=init_from,
            num_workers=num_workers,
            on_bad_row=on_bad_row.value,
            tensorboard=tensorboard,
        )
    _finish(run, console)


def confirm(table: Manifest, named: Mapping[str, str]) -> None:
    """On a terminal, print the inferred columns and ask for confirmation.

    Raises:
        typer.Abort: the answer is no.
    """
    from ..tasks.labels import summary

    guessed = {role: name for role, name in table.columns.items() if role not in named}
    if not guessed or not sys.stdin.isatty() or not flags.leads():
        return
    skipped = f", {len(table.skipped)} skipped" if table.skipped else ""
    labels = summary(table.problem_type, [row.label for row in table.rows])
    print(
        f"{table.path}: {plural(len(table.rows), 'row')}{skipped}; "
        f"{table.problem_type} labels: {labels}"
    )
    for role, name in guessed.items():
        print(f"  {role} = {name} (inferred; override with --{role} NAME)")
    typer.confirm("Train on these columns?", default=True, abort=True)


@contextmanager
def _echoed(folder: Path, values: Mapping[str, Any]) -> Iterator[None]:
    """Save the options in the run's folder, and remove them if the run does not begin."""
    from .. import checkpoint
    from ..training import run as experiment
    from ..training import state as interrupted

    if not flags.leads():
        yield
        return
    experiment.keep_what_is_there(folder, (ECHO, experiment.METRICS, *checkpoint.FILES))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    absolute = {
        name: value.resolve() if isinstance(value, Path) else value  # for any working directory
        for name, value in values.items()
        if name not in _UNSAID
    }
    (folder / ECHO).touch(exist_ok=False)  # two concurrent runs cannot share a folder
    try:
        options.write_yaml(folder / ECHO, absolute)
        yield
    except BaseException:
        if not any((folder / name).exists() for name in (interrupted.CALL, experiment.METRICS)):
            (folder / ECHO).unlink()
            interrupted.clear(folder)
            if made and not any(folder.iterdir()):
                folder.rmdir()
        raise


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """After Ctrl-C or a full disk, print in one line how to resume."""
    from ..training import state as interrupted

    try:
        yield
    except KeyboardInterrupt:
        message = (
            interrupted.unfinished(folder)
            or f"{folder}: the run was interrupted before training began"
        )
        if flags.leads():
            print(message, file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        message = reason(error)
        if interrupted.unfinished(folder):
            message += f"; fix that, then resume it with: {interrupted.command(folder)}"
        raise FusionError(message) from error


def _nothing_else(context: typer.Context, *allowed: str) -> None:
    """Reject options other than `allowed`, whose first one excludes all others.

    Raises:
        ConfigError: another option was given; the message names it.
    """
    for each in context.command.params:
        if each.name not in allowed and _given(context, str(each.name)):
            name = each.opts[0] if each.opts else each.name
            raise ConfigError(f"--{allowed[0]} uses the options of the run; remove {name}")


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _finish(run: Run, console: Console) -> None:
    """Print and plot the results of a run."""
    from ..models.summary import note
    from ..plots import metrics as plot
    from ..report.console import results

    if not flags.leads():
        return
    console.print(results(run))
    console.out(f"{run.trained[0].name}: {note(run.config.model)}")
    plot.curves(run.trained, run.folder / "curves.png", run.folder.name)
    console.out(f"Saved in {run.folder}: config.json, model.safetensors, metrics.jsonl, curves.png")
    console.out(f"Next: fastrnn evaluate {run.folder}")
