"""`fastrnn explain`: show what the predictions of a run depend on."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from ..config.schema import BATCH_SIZE
from . import options as flags
from .common import evaluation_table, set_threads
from .config_flags import with_columns


@with_columns
def explain(
    run: flags.RunFolder,
    manifest: flags.OptionalManifest = None,
    root: flags.Root = None,
    part: flags.SplitPart = flags.Part.test,
    examples: Annotated[
        int, typer.Option(min=0, max=10_000, help="Rows to explain individually.")
    ] = 6,
    on_bad_row: flags.BadRowsOfRun = None,
    device: flags.Device = "auto",
    batch_size: flags.BatchSize = BATCH_SIZE,
    num_workers: flags.NumWorkers = 0,
    threads: flags.Threads = None,
    encoders: flags.Encoders = None,
    **values: Any,
) -> None:
    """Explain a run: modalities, their interactions, attributions to inputs, the state.

    Writes explanation.json, pictures and report.html to the run's folder.

    --batch-size does not limit the swaps and the EMAP, of up to 512 and 100 rows at once.
    """
    from ..explain import explainer
    from ..report import console as tables
    from ..report.report import write_report

    set_threads(threads)
    table = evaluation_table(run, manifest, root, values, on_bad_row)
    explanation = explainer.explain_run(
        run,
        table,
        part.value,
        examples=examples,
        device=device,
        batch_size=batch_size,
        on_bad_row=on_bad_row and on_bad_row.value,
        num_workers=num_workers,
    )
    console = Console()
    for each in tables.explanation(explanation):
        console.print(each)
    console.out(f"Written: {run / explainer.EXPLANATION}, {write_report(run)}")
