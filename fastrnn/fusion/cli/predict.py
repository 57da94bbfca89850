"""`fastrnn predict`: predict the rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..config.schema import BATCH_SIZE, BLOCK
from ..errors import ConfigError
from ..strings import plural
from . import options as flags
from .common import note_unfinished, set_threads
from .config_flags import named_columns, with_columns

_TUNED = "tuned"


@with_columns
def predict(
    run: flags.RunFolder,
    manifest: flags.Manifest,
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
        str,
        typer.Option(
            metavar="tuned|FLOAT",
            help="Probability above which a label is predicted, for binary the second one; tuned: "
            "as fit found it on val rows for binary, else 0.5.",
        ),
    ] = _TUNED,
    block: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Rows in memory at once.")
    ] = BLOCK,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Predict only part I of N of the table, from 1; a part is whole blocks.",
        ),
    ] = "1/1",
    on_bad_row: flags.BadRows = flags.OnBadRow.error,
    device: flags.Device = "auto",
    batch_size: flags.BatchSize = BATCH_SIZE,
    num_workers: flags.NumWorkers = 0,
    threads: flags.Threads = None,
    encoders: flags.Encoders = None,
    **values: Any,
) -> None:
    """Predict the rows of a table of any size: labels with their probabilities, or values.

    The table needs no labels. Rows are read, predicted and written in blocks, and the output file
    appears when it is complete. With --on-bad-row skip, a row that cannot be used has an error
    instead of a prediction.
    """
    from .. import checkpoint
    from ..inference.loop import InferenceConfig, find_device
    from ..inference.predictor import Predictor, predict_file
    from ..inference.shard import Shard

    set_threads(threads)
    part = Shard.of(shard)
    network, processor, config = checkpoint.load(run)
    note_unfinished(run)
    predictor = Predictor(
        network,
        processor,
        config,
        None if threshold == _TUNED else _number(threshold),
        find_device(device),
        InferenceConfig(batch_size, num_workers),
        on_bad_row.value,
    )
    with Console(stderr=True).status("0 rows") as status:
        counts = predict_file(
            predictor,
            manifest,
            output,
            columns=named_columns(values),
            root=root,
            block=block,
            shard=part,
            progress=lambda rows: status.update(plural(rows, "row")),
        )
    Console().out(
        f"{plural(counts.predicted, 'row')} predicted, written to {output}"
        + (f"; {plural(counts.skipped, 'row')} with an error instead" if counts.skipped else "")
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--threshold must be {_TUNED} or a number; got {text!r}") from None
