"""`fastrnn fit`: an option comes from its flag, else from the file of --config, else from --preset,
else from its default."""

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

from .. import options
from ..config import KINDS
from ..errors import ConfigError, FusionError, reason
from ..presets import PRESETS
from ..words import plural
from . import flags

if TYPE_CHECKING:
    from ..experiment import Run
    from ..manifest import Manifest

ECHO = "config.yaml"
_UNSAID = ("config", "out", "resume", "yes")  # of no meaning in a file that says how to fit again

Kind = Enum("Kind", {name: name for name in ("auto", *KINDS)}, type=str)  # type: ignore[misc]
Preset = Enum("Preset", {name: name for name in PRESETS}, type=str)  # type: ignore[misc]
_AUTO, _DEFAULT = Kind("auto"), Preset("default")


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """The file's options become the flags' defaults."""
    if path is not None:
        known = [str(each.name) for each in context.command.params if each.name not in _UNSAID]
        read = options.read_yaml(path, set(known) - {"help"})
        context.default_map = {**(context.default_map or {}), **read}
    return path


def _preset(context: typer.Context, preset: Enum) -> Enum:
    """The preset's options become defaults too, below those of a file, whichever came first."""
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
            help="A YAML file of any of these options; flags win.",
        ),
    ] = None,
    preset: Annotated[
        Preset,
        typer.Option(callback=_preset, is_eager=True, help="Options to begin with; others win."),
    ] = _DEFAULT,
    root: flags.Root = None,
    kind: Annotated[
        Kind, typer.Option(help="What the labels are; auto: as they look, which is printed.")
    ] = _AUTO,
    out: flags.Out = None,
    baselines: Annotated[
        bool, typer.Option(help="Also train each modality alone, late, and no recurrence.")
    ] = True,
    init_from: Annotated[
        Path | None,
        typer.Option(
            parser=flags.path,
            metavar="RUN",
            help="Begin with the weights of this run, where they fit.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=flags.path,
            metavar="RUN",
            help="Go on with a run that was stopped; no other option.",
        ),
    ] = None,
    on_bad_row: flags.BadRow = flags.OnBadRow.error,
    workers: flags.Workers = 0,
    threads: flags.Threads = None,
    tensorboard: Annotated[
        bool, typer.Option(help="Write the metrics for TensorBoard too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    **values: Any,
) -> None:
    """Train on a table of images, audio, texts and series with labels; compare with baselines.

    Columns are known by name (image, audio, text, series, label, split, group), by their files'
    endings, or by the options. Paths are relative to the manifest. Without a split column, rows
    are dealt 80/10/10 by seed, each label in proportion. An empty cell is a missing modality.

    A stream is a row with several images, as a JSON list in its cell: ["1.png", "2.png"]. Its
    label may be a list too, one a step, null where none is asked for. Its audio file is cut into
    as many equal parts as there are steps.

    Files are decoded once and kept in memory.
    """
    from .. import experiment
    from ..manifest import read_manifest

    flags.set_threads(threads)
    console = Console(quiet=not flags.leads())
    if resume is not None:
        _nothing_else(context, "resume", "threads", "workers")
        with _resumable(resume):
            run = experiment.resume(resume, console)
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
        kind=None if kind is _AUTO else kind.value,
        on_bad_row=on_bad_row.value,
    )
    if not yes:
        confirm(table, named)
    if out is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("several processes need one name for the run's folder: give --out FOLDER")
    folder = out or flags.new_folder(manifest.stem)
    order = [str(each.name) for each in context.command.params]
    said = {name: context.params[name] for name in order if name in context.params}
    with _resumable(folder), _echoed(folder, said):
        run = experiment.fit(
            table,
            folder,
            data,
            training,
            model,
            baselines,
            console,
            init_from=init_from,
            workers=workers,
            on_bad_row=on_bad_row.value,
            tensorboard=tensorboard,
        )
    _finish(run, console)


def confirm(table: Manifest, named: Mapping[str, str]) -> None:
    """On a terminal, show the roles that were guessed and ask whether to go on.

    Raises:
        typer.Abort: the answer is no.
    """
    from ..kinds import summary

    guessed = {role: name for role, name in table.columns.items() if role not in named}
    if not guessed or not sys.stdin.isatty() or not flags.leads():
        return
    left_out = f", {len(table.skipped)} more left out" if table.skipped else ""
    labels = summary(table.kind, [row.label for row in table.rows])
    print(
        f"{table.path}: {plural(len(table.rows), 'row')}{left_out}; {table.kind} labels: {labels}"
    )
    for role, name in guessed.items():
        print(f"  {role} = {name}, a guess; else give --{role} NAME")
    typer.confirm("Train on these?", default=True, abort=True)


@contextmanager
def _echoed(folder: Path, values: Mapping[str, Any]) -> Iterator[None]:
    """Keep the options in the run's folder; take them away where the run does not begin."""
    from .. import checkpoint, experiment
    from .. import resume as interrupted

    if not flags.leads():
        yield
        return
    experiment.keep_what_is_there(folder, (ECHO, experiment.METRICS, *checkpoint.FILES))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    absolute = {
        name: value.resolve() if isinstance(value, Path) else value  # from any other folder, too
        for name, value in values.items()
        if name not in _UNSAID
    }
    (folder / ECHO).touch(exist_ok=False)  # two that begin at once do not share a folder
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
    """Say in one line how to go on after Ctrl-C, or after a full disk."""
    from .. import resume as interrupted

    try:
        yield
    except KeyboardInterrupt:
        said = interrupted.unfinished(folder) or f"{folder}: stopped before training began"
        if flags.leads():
            print(said, file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        said = reason(error)
        if interrupted.unfinished(folder):
            said += f"; mend that, and go on with: {interrupted.command(folder)}"
        raise FusionError(said) from error


def _nothing_else(context: typer.Context, *allowed: str) -> None:
    """Refuse options beside those that go together.

    Raises:
        ConfigError: names one that was given.
    """
    for each in context.command.params:
        source = context.get_parameter_source(str(each.name))
        if source is not None and source.name == "COMMANDLINE" and each.name not in allowed:
            name = each.opts[0] if each.opts else each.name
            raise ConfigError(
                f"--{allowed[0]} goes on with the run's own options; leave {name} out"
            )


def _finish(run: Run, console: Console) -> None:
    """Show and draw what a run came to."""
    from .. import experiment, plot
    from ..summary import note

    if not flags.leads():
        return
    console.print(experiment.results(run))
    console.out(f"{run.trained[0].name}: {note(run.config.model)}")
    plot.curves(run.trained, run.folder / "curves.png", run.folder.name)
    console.out(f"Saved in {run.folder}: config.json, model.safetensors, metrics.jsonl, curves.png")
    console.out(f"Next: fastrnn evaluate {run.folder}")
