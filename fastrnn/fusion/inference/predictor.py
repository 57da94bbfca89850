"""Predict the rows of a table in memory, or of a file of any size in blocks.

A file is read, decoded, predicted and written one block of rows at a time, so memory does not grow
with its size. The output appears under its name only when it is complete. It has one record per
row, with `row`, the row's number in the table from 0, and these fields:

| problem_type | fields |
|---|---|
| binary, multiclass | label: the predicted label; probabilities: {label: probability} |
| multilabel | label: a list of the labels above the threshold; probabilities |
| steps | label: a list, one per step; probabilities: a list of {label: probability} |
| regression | value: in the units of the training labels |
| a skipped row | error: the reason |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..config.parser import Range, parse
from ..config.schema import BLOCK, RunConfig
from ..data.bad_rows import BadRows
from ..data.blocks import read_blocks
from ..data.manifest import Manifest, read_manifest
from ..data.processor import Examples, Preprocessor
from ..errors import ConfigError, DataError, ManifestError
from ..strings import composed
from ..tasks import objectives
from .writers import Record, atomic, writer

_BATCH = 256  # maximum rows per forward pass


@dataclass(frozen=True)
class Predictor:
    """A trained network and the preprocessing of its inputs.

    `threshold` (binary, multilabel) is the probability above which a label is predicted; for
    binary, the second label.
    """

    network: nn.Module
    preprocessor: Preprocessor
    config: RunConfig
    threshold: float = 0.5
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        parse(Annotated[float, Range(0, 1)], self.threshold, "threshold")

    def frame(
        self,
        frame: pd.DataFrame,
        *,
        columns: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
        on_bad_row: str = "error",
        num_workers: int = 0,
    ) -> list[Record]:
        """Predict the rows of a DataFrame.

        Args:
            frame: a table with a unique index, which gives the row numbers.
            columns: role -> column, for columns named differently than in training.
            root: the folder that paths are relative to and must stay inside. Defaults to the
                current folder.
            on_bad_row: "error" or "skip".
            num_workers: the number of processes that decode files.

        Returns:
            One record per row, in the order of the row numbers.

        Raises:
            FusionError: a column is missing; or a row cannot be used and on_bad_row is not "skip".
        """
        if frame.empty:
            return []
        frame = frame.rename(columns=lambda name: composed(str(name).strip()))
        frame, roles = self._inputs(frame, columns or {})
        problem_type = self.config.model.problem_type
        table = read_manifest(
            frame, roles, root, problem_type=problem_type, labelled=False, on_bad_row=on_bad_row
        )
        self._check(table)
        numbers = {f"row {number}": number for number in frame.index}
        bad = BadRows(on_bad_row)
        usable = []
        for index, row in enumerate(table.rows):
            with bad.row(row.where):
                lacking = [name for name in self._needed if not row.has(name)]
                if lacking:
                    raise ManifestError(
                        f"{table.path}, {row.where}: {lacking[0]} is missing, but the model was "
                        "not trained without it; fill the cell, or train with empty cells or with "
                        "--modality-dropout"
                    )
                usable.append(index)
        examples = self.preprocessor.load(
            table, usable, on_bad_row=on_bad_row, num_workers=num_workers
        )
        there = [table.rows[index].where for index in examples.rows]
        records: list[Record] = []
        for where, values in zip(there, self._answers(examples), strict=True):
            with bad.row(where):
                if not bool(values.isfinite().all()):
                    raise DataError(
                        f"{table.path}, {where}: the model's output is not finite; check for "
                        "extreme inputs, or for a nan loss in the run's metrics.jsonl"
                    )
                answer = _record(self.config, values, self.threshold)
                records.append({"row": numbers[where]} | answer)
        skipped = (*table.skipped, *examples.skipped, *bad.listed)
        records += [{"row": numbers[where], "error": error} for where, error in skipped]
        return sorted(records, key=lambda record: record["row"])

    def file(
        self,
        path: Path,
        *,
        columns: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
        on_bad_row: str = "error",
        num_workers: int = 0,
        block: int = BLOCK,
    ) -> Iterator[list[Record]]:
        """Predict the rows of a CSV, JSONL or Parquet file, in blocks of `block` rows.

        Args:
            root: the folder that paths are relative to and must stay inside. Defaults to the
                table's own folder.

        Yields:
            The records of each block, as `frame` returns them.

        Raises:
            FusionError: as `frame`, and if the table cannot be read or has no rows.
        """
        names: dict[str, None] = {}  # rows of a JSONL file may omit columns
        for each in read_blocks(path, block):
            names |= dict.fromkeys(each.frame.columns)
            frame = each.frame.reindex(columns=list(names))
            damaged = min(each.damaged) if each.damaged and on_bad_row == "error" else None
            if damaged is not None:
                frame = frame[frame.index < damaged]  # errors of earlier rows are raised first
            records = self.frame(
                frame,
                columns=columns,
                root=path.parent if root is None else root,
                on_bad_row=on_bad_row,
                num_workers=num_workers,
            )
            if damaged is not None:
                raise each.damaged[damaged]
            records += [{"row": row, "error": str(why)} for row, why in each.damaged.items()]
            yield sorted(records, key=lambda record: record["row"])
        if not names:
            raise ManifestError(f"{path}: the table has no rows; add one row per example")

    @property
    def _needed(self) -> list[str]:
        """The modalities that every row must have."""
        model = self.config.model
        learned = model.modalities if model.modality_dropout else model.missing
        return [name for name in model.modalities if name not in learned]

    def _inputs(
        self, frame: pd.DataFrame, named: Mapping[str, str]
    ) -> tuple[pd.DataFrame, dict[str, str]]:
        """Return the columns that the network reads, and their roles as role -> column."""
        model = self.config.model
        unread = sorted(set(named) - set(model.modalities))
        if unread:
            raise ConfigError(
                f"the model reads {', '.join(model.modalities)} but not {unread[0]}; omit it"
            )
        roles: dict[str, str] = {}
        found: dict[str, Any] = {}
        for role in model.modalities:
            column = composed(named.get(role, self.config.columns.get(role, role)))
            if column in frame.columns:
                found[column] = frame[column]
            elif role not in named and role not in self._needed:
                found[column] = None  # the model was trained with rows that lack it
            else:
                raise ConfigError(
                    f"{frame.attrs.get('path', 'DataFrame')}: there is no column {column!r}, which "
                    f"the model reads as {role}; the columns are "
                    f"{', '.join(map(str, frame.columns))}; choose one with --{role} NAME"
                )
            roles[role] = column
        inputs = pd.DataFrame(found, index=frame.index, dtype=object)
        inputs.attrs = frame.attrs
        return inputs, roles

    def _check(self, table: Manifest) -> None:
        """Check that rows are streams if and only if the network was trained on streams."""
        if table.rows and table.stream != self.config.model.stream:
            raise ConfigError(
                f"{table.path}: the model reads "
                + ("a JSON list of images" if self.config.model.stream else "one image")
                + " in every row; change the image column"
            )

    def _answers(self, examples: Examples) -> Iterator[Tensor]:
        """Yield `objectives.answers` for each example in order, without padding steps."""
        network = self.network.to(self.device).eval()
        problem_type, target = self.config.model.problem_type, self.config.target
        for start in range(0, len(examples), _BATCH):
            rows = range(start, min(start + _BATCH, len(examples)))
            batch = {name: each.to(self.device) for name, each in examples.collate(rows).items()}
            with torch.no_grad():
                found = objectives.answers(problem_type, network(batch), target)
            if problem_type != "steps":
                yield from found
                continue
            for values, steps in zip(found, batch["steps"].sum(1).tolist(), strict=True):
                yield values[:steps]


def _record(config: RunConfig, values: Tensor, threshold: float) -> Record:
    problem_type, labels = config.model.problem_type, config.labels
    if problem_type == "regression":
        return {"value": float(values)}
    if problem_type == "binary":
        second = float(values)
        named = _named(labels, (1 - second, second))
        return {"label": labels[second > threshold], "probabilities": named}
    if problem_type == "multilabel":
        chosen = [
            name for name, each in zip(labels, values.tolist(), strict=True) if each > threshold
        ]
        return {"label": chosen, "probabilities": _named(labels, values.tolist())}
    if problem_type == "steps":
        return {
            "label": [labels[each] for each in values.argmax(-1).tolist()],
            "probabilities": [_named(labels, row) for row in values.tolist()],
        }
    return {"label": labels[int(values.argmax())], "probabilities": _named(labels, values.tolist())}


def _named(labels: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {name: _short(value) for name, value in zip(labels, values, strict=True)}


def _short(value: float) -> float:
    """Round to the digits of float32; further digits carry no information."""
    return float(f"{value:.7g}")


@dataclass(frozen=True)
class Counts:
    """The number of predicted and of skipped rows of a table."""

    answered: int
    skipped: int


def predict_file(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    columns: Mapping[str, str] | None = None,
    root: Path | None = None,
    on_bad_row: str = "error",
    num_workers: int = 0,
    block: int = BLOCK,
    tell: Callable[[int], None] | None = None,
) -> Counts:
    """Predict every row of a CSV, JSONL or Parquet file and write `target`, .jsonl or .parquet.

    Args:
        columns: role -> column, for columns named differently than in training.
        root: the folder that paths are relative to and must stay inside. Defaults to the table's
            own folder.
        on_bad_row: "error" stops at the first row that cannot be used and writes nothing; "skip"
            writes the reason in place of the row's prediction.
        num_workers: the number of processes that decode files.
        block: rows in memory at once.
        tell: called after each block with the number of rows done so far.

    Raises:
        FusionError: the table, one of its files or the name of `target` cannot be used.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(
            f"{target}: the predictions would overwrite the table; give another --output"
        )
    answered = skipped = 0
    ending = target.suffix.lower()
    with atomic(target) as part, closing(writer(part, ending, predictor.config)) as output:
        blocks = predictor.file(
            source,
            columns=columns,
            root=root,
            on_bad_row=on_bad_row,
            num_workers=num_workers,
            block=block,
        )
        for records in blocks:
            output.write(records)
            bad = sum("error" in record for record in records)
            answered, skipped = answered + len(records) - bad, skipped + bad
            if tell:
                tell(answered + skipped)
    return Counts(answered, skipped)
