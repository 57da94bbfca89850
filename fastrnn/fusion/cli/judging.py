"""`fastrnn evaluate`, `predict`, `explain` and `export`: the commands that use a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..config import options
from ..config.schema import BLOCK
from ..strings import plural
from . import options as flags
from .options import OnBadRow, Part

_PROOF = 8  # rows on which an export is verified


@options.with_columns
def evaluate(
    run: flags.RunFolder,
    manifest: flags.Table = None,
    root: flags.Root = None,
    part: flags.OfPart = Part.test,
    on_bad_row: flags.BadRowAgain = None,
    num_workers: flags.Workers = 0,
    threads: flags.Threads = None,
    **values: Any,
) -> None:
    """Evaluate a run: scores of the fusion and its baselines, calibration, robustness.

    Writes evaluation.json and report.html to the run's folder.
    """
    from ..evaluation import evaluator as evaluation
    from ..report import console as tables
    from ..report.report import write_report

    flags.set_threads(threads)
    table = flags.judged_table(run, manifest, root, values, on_bad_row)
    found = evaluation.evaluate_run(
        run,
        table,
        part.value,
        device=flags.device(),
        on_bad_row=on_bad_row and on_bad_row.value,
        num_workers=num_workers,
    )
    console = Console()
    for each in tables.evaluation(found):
        console.print(each)
    console.out(f"Written: {run / evaluation.EVALUATION}, {write_report(run)}")


@options.with_columns
def predict(
    run: flags.RunFolder,
    manifest: Annotated[
        Path,
        typer.Argument(
            parser=flags.path,
            metavar="MANIFEST",
            help="A CSV, JSONL or Parquet file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=flags.path,
            metavar="FILE",
            help="A .jsonl or .parquet file; an existing one is replaced.",
        ),
    ] = Path("predictions.jsonl"),
    root: flags.Root = None,
    threshold: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Probability above which a label is predicted; binary: above which the second "
            "label is.",
        ),
    ] = 0.5,
    block: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Rows in memory at once.")
    ] = BLOCK,
    on_bad_row: flags.BadRow = OnBadRow.error,
    num_workers: flags.Workers = 0,
    threads: flags.Threads = None,
    **values: Any,
) -> None:
    """Predict the rows of a table of any size: labels with their probabilities, or values.

    The table needs no labels. Rows are read, predicted and written in blocks, and the output file
    appears when it is complete. With --on-bad-row skip, a row that cannot be used has an error
    instead of a prediction.
    """
    from .. import checkpoint
    from ..inference.predictor import Predictor, predict_file

    flags.set_threads(threads)
    network, preprocessor, config = checkpoint.load(run)
    flags.note_unfinished(run)
    device = flags.device()
    predictor = Predictor(network, preprocessor, config, threshold, device)
    console = Console(stderr=True)
    with console.status("0 rows") as status:
        counts = predict_file(
            predictor,
            manifest,
            output,
            columns=flags.named_columns(values),
            root=root,
            on_bad_row=on_bad_row.value,
            num_workers=num_workers,
            block=block,
            tell=lambda rows: status.update(plural(rows, "row")),
        )
    Console().out(
        f"{plural(counts.answered, 'row')} predicted, written to {output}"
        + (f"; {plural(counts.skipped, 'row')} with an error instead" if counts.skipped else "")
    )


@options.with_columns
def explain(
    run: flags.RunFolder,
    manifest: flags.Table = None,
    root: flags.Root = None,
    part: flags.OfPart = Part.test,
    examples: Annotated[
        int, typer.Option(min=0, max=10_000, help="Rows to explain individually.")
    ] = 6,
    on_bad_row: flags.BadRowAgain = None,
    num_workers: flags.Workers = 0,
    threads: flags.Threads = None,
    **values: Any,
) -> None:
    """Explain a run: modalities, their interactions, attributions to inputs, the state.

    Writes explanation.json, pictures and report.html to the run's folder.
    """
    from ..explain import explainer as explanation
    from ..report import console as tables
    from ..report.report import write_report

    flags.set_threads(threads)
    table = flags.judged_table(run, manifest, root, values, on_bad_row)
    found = explanation.explain_run(
        run,
        table,
        part.value,
        examples=examples,
        device=flags.device(),
        on_bad_row=on_bad_row and on_bad_row.value,
        num_workers=num_workers,
    )
    console = Console()
    for each in tables.explanation(found):
        console.print(each)
    console.out(f"Written: {run / explanation.EXPLANATION}, {write_report(run)}")


@options.with_columns
def export(
    run: flags.RunFolder,
    manifest: flags.Table = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=flags.path,
            metavar="FILE",
            help="The file to write; model.onnx in the run's folder by default.",
        ),
    ] = None,
    root: flags.Root = None,
    on_bad_row: flags.BadRowAgain = None,
    num_workers: flags.Workers = 0,
    threads: flags.Threads = None,
    **values: Any,
) -> None:
    """Export the model to ONNX, and verify its outputs in ONNX Runtime.

    The verification needs rows, of the training table or of MANIFEST.
    """
    from .. import checkpoint
    from ..evaluation.run_data import run_rows
    from ..export import to_onnx

    flags.set_threads(threads)
    table = flags.judged_table(run, manifest, root, values, on_bad_row)
    rows = run_rows(run, table, on_bad_row=on_bad_row and on_bad_row.value, num_workers=num_workers)
    batch = rows.examples.collate(range(min(_PROOF, len(rows.examples))))
    network, _, config = checkpoint.load(run)
    path = to_onnx(network, config, batch, output or run / "model.onnx")
    Console().out(
        f"Written: {path}, {path.stat().st_size / 1e6:.1f} MB; outputs in ONNX Runtime match the "
        f"model on {plural(len(batch['label']), 'row')}"
    )
    if rows.skipped:
        Console().out(f"{plural(len(rows.skipped), 'row')} skipped")
