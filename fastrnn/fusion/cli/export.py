"""`fastrnn export`: write the model of a run in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..strings import plural
from . import options as flags
from .common import evaluation_table, set_threads
from .config_flags import with_columns

_VERIFIED_ROWS = 8


@with_columns
def export(
    run: flags.RunFolder,
    manifest: flags.OptionalManifest = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=flags.path,
            metavar="FILE",
            help="The .onnx file to write; model.onnx in the run's folder by default.",
        ),
    ] = None,
    root: flags.Root = None,
    on_bad_row: flags.BadRowsOfRun = None,
    num_workers: flags.NumWorkers = 0,
    threads: flags.Threads = None,
    encoders: flags.Encoders = None,
    **values: Any,
) -> None:
    """Export the model to ONNX, and verify its outputs in ONNX Runtime.

    A recipe, model.py next to model.onnx, predicts rows without fastrnn and torch. A model whose
    encoder has its own preprocessing gets none.

    The verification needs rows, of the training table or of MANIFEST.
    """
    from .. import checkpoint
    from ..deployment import recipe_of, write_recipe
    from ..evaluation.run_data import run_rows
    from ..export import to_onnx

    set_threads(threads)
    target = output or run / "model.onnx"
    recipe_of(target)  # before the work begins
    table = evaluation_table(run, manifest, root, values, on_bad_row)
    rows = run_rows(run, table, on_bad_row=on_bad_row and on_bad_row.value, num_workers=num_workers)
    batch = rows.dataset.batch(range(min(_VERIFIED_ROWS, len(rows.dataset))))
    network, processor, config = checkpoint.load(run)
    path = to_onnx(network, processor, batch, target, config)
    recipe = None if processor.preprocessing else write_recipe(path)
    console = Console()
    console.out(
        f"Written: {path}, {path.stat().st_size / 1e6:.1f} MB; outputs in ONNX Runtime match the "
        f"model on {plural(len(batch['label']), 'row')}"
    )
    if recipe is None:
        console.out(
            "No recipe: an encoder has its own preprocessing, so make the inputs with fastrnn or "
            "with the encoder's own library"
        )
    else:
        console.out(
            f"Written: {recipe}, which predicts rows without fastrnn: python {recipe} row.json"
        )
    if rows.skipped:
        console.out(f"{plural(len(rows.skipped), 'row')} skipped")
