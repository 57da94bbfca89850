"""`fastrnn evaluate`: score a run."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ..config.schema import BATCH_SIZE
from . import options as flags
from .common import evaluation_table, set_threads
from .config_flags import with_columns


@with_columns
def evaluate(
    run: flags.RunFolder,
    manifest: flags.OptionalManifest = None,
    root: flags.Root = None,
    part: flags.SplitPart = flags.Part.test,
    on_bad_row: flags.BadRowsOfRun = None,
    device: flags.Device = "auto",
    batch_size: flags.BatchSize = BATCH_SIZE,
    num_workers: flags.NumWorkers = 0,
    threads: flags.Threads = None,
    encoders: flags.Encoders = None,
    **values: Any,
) -> None:
    """Evaluate a run: scores of the fusion and its baselines, calibration, robustness.

    Writes evaluation.json and report.html to the run's folder.
    """
    from ..evaluation import evaluator
    from ..report import console as tables
    from ..report.report import write_report

    set_threads(threads)
    table = evaluation_table(run, manifest, root, values, on_bad_row)
    evaluation = evaluator.evaluate_run(
        run,
        table,
        part.value,
        device=device,
        batch_size=batch_size,
        on_bad_row=on_bad_row and on_bad_row.value,
        num_workers=num_workers,
    )
    console = Console()
    for each in tables.evaluation(evaluation):
        console.print(each)
    console.out(f"Written: {run / evaluator.EVALUATION}, {write_report(run)}")
