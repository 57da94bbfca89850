"""Predict the rows of a table of any size, in blocks.

A table is read, decoded, predicted and written one block of rows at a time, so memory does not grow
with its size. The output file appears under its name only when it is complete. It has one record
per row, with `row`, the row's number in the table from 0, and these fields:

| problem type | fields |
|---|---|
| binary, multiclass | label: the predicted label; probabilities: {label: probability} |
| multilabel | label: a list of the labels above the threshold; probabilities |
| steps | label: a list, one per step; probabilities: a list of {label: probability} |
| regression | value: in the units of the training labels |
| a skipped row | error: the reason |
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from ..config.inputs import Columns, input_of, listed, modality_of, of_modality, override
from ..config.parser import Range, parse
from ..config.schema import BLOCK, RunConfig
from ..data.bad_rows import BadRows, located
from ..data.columns import ManifestBuilder
from ..data.dataset import FusionDataset, load_dataset
from ..data.loader import check_files
from ..data.manifest import Manifest, make_reader
from ..data.processor import Processor
from ..data.readers import Source, Table, open_table
from ..data.records import Record as Cells
from ..data.storage import RemotePath
from ..errors import ConfigError, DataError, ManifestError
from ..files import atomic
from .loop import InferenceConfig, forward
from .shard import WHOLE, Shard
from .writers import Record, writer

Block = list[tuple[str, Cells | ManifestError]]


@dataclass(frozen=True)
class Predictor:
    """A trained network and the preprocessing of its inputs.

    Attributes:
        threshold: binary, multilabel: the probability above which a label is predicted; for binary,
            the second label. None for that of `config`, which is tuned for binary, else 0.5.
        device: where the network runs.
        inference: the batch size, and the processes that decode files.
        on_bad_row: "error" to stop at the first row that cannot be used, "skip" for a record with
            the reason.
    """

    network: nn.Module
    processor: Processor
    config: RunConfig
    threshold: float | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    on_bad_row: str = "error"

    def __post_init__(self) -> None:
        parse(Annotated[float, Range(0, 1)] | None, self.threshold, "threshold")

    def predict(
        self,
        source: Source,
        *,
        columns: Columns | None = None,
        root: str | os.PathLike[str] | None = None,
        block: int = BLOCK,
        shard: Shard = WHOLE,
    ) -> Iterator[list[Record]]:
        """Predict the rows of a table, or of a part of it, in blocks of `block` rows.

        Args:
            source: a CSV, JSONL or Parquet file, a DataFrame, an Arrow table or a dataset.
            columns: input -> column, for columns named differently than in training; for several
                columns of a modality, all of them in the order of training.
            root: the folder that paths are relative to and must stay inside. Defaults to the
                table's own folder, and to the current folder if there is no file.
            block: rows in memory at once.
            shard: the part to predict. Parts consist of whole blocks, so that the rows have the
                same predictions, bit for bit, as in the whole table.

        Yields:
            One record per row, in order.

        Raises:
            FusionError: the table cannot be read, has no rows, or lacks a column; or a row cannot
                be used and on_bad_row is not "skip".
        """
        wanted = {each for value in (columns or {}).values() for each in listed(value)}
        wanted |= set(self.config.columns.values())  # a name may contain a comma
        table = open_table(source, wanted)
        roles = self._roles(table, columns or {})
        network = self.network.to(self.device)
        rows = range(sys.maxsize)
        if shard != WHOLE:
            rows = shard.rows(sum(1 for _ in table.records()), block)
        records = islice(table.records(), rows.start, rows.stop)
        start = rows.start
        while some := list(islice(records, block)):
            yield self._block(network, table, roles, root, some, start)
            start += len(some)
        if not start and not any(True for _ in table.records()):
            raise ManifestError(f"{table.path}: the table has no rows; add one row per example")

    def _block(
        self,
        network: nn.Module,
        table: Table,
        roles: Mapping[str, str],
        root: str | os.PathLike[str] | None,
        records: Block,
        start: int,
    ) -> list[Record]:
        """Predict some rows, the first of which is row `start` of the table."""
        errors: dict[int, str] = {}
        manifest, numbers = self._read(table, roles, root, records, errors)
        dataset = self._dataset(manifest, numbers, errors)
        found: dict[int, Record] = {}
        threshold = self.config.threshold if self.threshold is None else self.threshold
        outputs = self._outputs(network, dataset) if len(dataset) else iter(())
        for row, output in zip(dataset.rows.tolist(), outputs, strict=True):
            if bool(output.isfinite().all()):
                found[numbers[row]] = self.processor.task.decode(output, threshold)
            else:
                error = DataError(
                    "the model's output is not finite; check for extreme inputs, or for a nan loss "
                    "in the run's metrics.jsonl"
                )
                self._bad(errors, numbers[row], manifest, row, error)
        rows = range(len(records))
        return [
            {"row": start + row} | (found[row] if row in found else {"error": errors[row]})
            for row in rows
        ]

    def _read(
        self,
        table: Table,
        roles: Mapping[str, str],
        root: str | os.PathLike[str] | None,
        records: Block,
        errors: dict[int, str],
    ) -> tuple[Manifest, list[int]]:
        """Check the cells of a block; return its rows and their numbers in the block."""
        bad = BadRows(self.on_bad_row)
        builder = ManifestBuilder(make_reader(table.path, root, roles), bad)
        # In a table that lacks a column, every cell of it is empty.
        builder.extend(records)
        found, _, stream = builder.finish(self.processor.task.problem_type)
        places = {where: number for number, (where, _) in enumerate(records)}
        errors |= {places[where]: error for where, error in bad.listed}
        images = of_modality(found.column_names, "image")
        has_images = any(found[name].null_count < len(found) for name in images)
        if has_images and stream != self.processor.stream:
            raise ConfigError(
                f"{table.path}: the model reads "
                + ("a JSON list of images" if self.processor.stream else "one image")
                + " in every row; change the image column"
            )
        root = builder.reader.root
        stream = self.processor.stream
        return Manifest(table.path, roles, (), found, stream=stream, root=root), builder.numbers

    def _dataset(
        self, manifest: Manifest, numbers: list[int], errors: dict[int, str]
    ) -> FusionDataset:
        """Return the rows of a block that can be used."""
        for name in self._needed:
            for row in manifest.rows.lacking(name).nonzero()[0].tolist():
                error = ManifestError(
                    f"{name} is missing, but the model was not trained without it; fill the cell, "
                    "or train with empty cells or with --modality-dropout"
                )
                if numbers[row] not in errors:
                    self._bad(errors, numbers[row], manifest, row, error)
        usable = [row for row, number in enumerate(numbers) if number not in errors]
        skip = self.on_bad_row == "skip"
        dataset = load_dataset(
            manifest,
            self.processor,
            usable,
            on_bad_row=self.on_bad_row,
            cache="memory" if skip else None,  # files are first checked, then used
        )
        if skip:
            dataset = check_files(dataset, "skip", self.inference.num_workers)
        places = {manifest.where(row): number for row, number in enumerate(numbers)}
        errors |= {places[where]: error for where, error in dataset.skipped}
        return dataset

    def _bad(
        self, errors: dict[int, str], number: int, manifest: Manifest, row: int, error: DataError
    ) -> None:
        """Raise the error of a row, or keep it."""
        error = located(manifest.path, manifest.where(row), error)
        if self.on_bad_row == "error":
            raise error
        errors[number] = str(error)

    @property
    def _needed(self) -> list[str]:
        """The inputs that every row must have."""
        model = self.config.model
        learned = model.modalities if model.modality_dropout else model.missing
        return [name for name in model.modalities if name not in learned]

    def _roles(self, table: Table, named: Columns) -> dict[str, str]:
        """Return the columns that the network reads, input -> column."""
        model = self.config.model
        known = {*model.modalities, *map(modality_of, model.modalities)}
        unread = sorted(set(named) - known)
        if unread:
            raise ConfigError(
                f"the model reads {', '.join(model.modalities)} but not {unread[0]}; omit it"
            )
        read = [*model.modalities, *(each.name for each in self.processor.tabular)]
        read = [role for role in read if role != "tabular"]
        trained = {role: column for role, column in self.config.columns.items() if role in read}
        missing = {role: role.partition(":")[2] or role for role in read if role not in trained}
        roles: dict[str, str] = {}
        for role, value in override(trained | missing, named, table.names).items():
            column = ",".join(listed(value, table.names))
            given = role in named or modality_of(role) in named
            if column not in table.names and (given or input_of(role) in self._needed):
                raise ConfigError(
                    f"{table.path}: there is no column {column!r}, which the model reads as "
                    f"{role}; the columns are {', '.join(table.names)}; choose one with "
                    f"--{modality_of(role)} NAME"
                )
            roles[role] = column
        return roles

    def _outputs(self, network: nn.Module, dataset: FusionDataset) -> Iterator[Tensor]:
        """Yield `Task.output` of each row in order, without padding steps."""
        task = self.processor.task
        for _, batch, logits in forward(network, dataset, self.inference):
            found = task.output(logits)
            if not task.per_step:
                yield from found
                continue
            for values, steps in zip(found, batch["steps"].sum(1).tolist(), strict=True):
                yield values[:steps]


@dataclass(frozen=True)
class Counts:
    """The number of predicted and of skipped rows of a table."""

    predicted: int
    skipped: int


def write_predictions(
    predictor: Predictor,
    blocks: Iterable[list[Record]],
    target: Path,
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Write the blocks of `Predictor.predict` to `target`, .jsonl or .parquet.

    Args:
        progress: called after each block with the number of rows done so far.

    Raises:
        FusionError: the name of `target`, or a block, cannot be used. Nothing is written then.
    """
    predicted = skipped = 0
    task = predictor.processor.task
    with atomic(target) as part, closing(writer(part, target.suffix.lower(), task)) as output:
        for records in blocks:
            output.write(records)
            bad = sum("error" in record for record in records)
            predicted, skipped = predicted + len(records) - bad, skipped + bad
            if progress:
                progress(predicted + skipped)
    return Counts(predicted, skipped)


def predict_file(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    columns: Columns | None = None,
    root: Path | None = None,
    block: int = BLOCK,
    shard: Shard = WHOLE,
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Predict the rows of a file or of shards, and write `target`, .jsonl or .parquet.

    Args:
        shard: the part of the table to predict; see `Predictor.predict`. The JSONL files of all
            parts, one after another, are the file of the whole table.

    Raises:
        FusionError: the table, one of its files or the name of `target` cannot be used.
    """
    local = not isinstance(source, RemotePath)
    if local and target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(
            f"{target}: the predictions would overwrite the table; give another --output"
        )
    blocks = predictor.predict(source, columns=columns, root=root, block=block, shard=shard)
    return write_predictions(predictor, blocks, target, progress)
