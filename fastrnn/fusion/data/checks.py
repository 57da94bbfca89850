"""Errors in a table that are found without opening a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from ..config.inputs import modality_of, of_modality
from ..errors import DataError, ManifestError, MediaError
from ..tasks.scale import FARTHEST
from . import text
from .decoding import series_of
from .manifest import Manifest
from .processor import Processor
from .tabular import TabularArrays, sources
from .timeseries import standardise


def check_columns(manifest: Manifest, processor: Processor) -> None:
    """Check that a manifest has the columns that a model reads.

    Raises:
        ManifestError: it lacks one, or its rows are streams and the model's are not.
    """
    read = [*processor.modalities, *(each.name for each in processor.tabular)]
    for name in read:
        if name not in (*manifest.columns, *manifest.modalities):
            raise ManifestError(
                f"{manifest.path}: the model reads {name}, but there is no such column; name "
                f"one with --{modality_of(name)}, or add an empty one if every row lacks it"
            )
    if manifest.stream and not processor.stream:
        raise ManifestError(
            f"{manifest.path}: rows are sequences of images, but the model reads one image per "
            "row; write one instead of a list"
        )


def far_cells(
    processor: Processor, cells: TabularArrays, rows: Sequence[int]
) -> dict[int, DataError]:
    """Return the errors of rows with a number far outside the training range."""
    found: dict[int, DataError] = {}
    names = sources(processor.tabular)
    for place, feature in np.argwhere(np.isinf(cells.numbers)).tolist():
        column = names[feature].partition(":")[2]
        found[rows[place]] = MediaError(
            f"the number in column {column!r} is more than {FARTHEST:g} standard deviations from "
            "the training mean; fix it, or remove the row"
        )
    return found


def problems(manifest: Manifest, rows: np.ndarray, processor: Processor) -> dict[int, DataError]:
    """Return the errors of rows that can be found without opening a file or reading the label."""
    table = manifest.rows
    found: dict[int, DataError] = {}
    names = processor.modalities
    empty = np.logical_and.reduce([table.lacking(name) for name in names])
    for row in rows[empty[rows]].tolist():
        found[row] = ManifestError(f"no value for {', '.join(names)}; fill one, or remove the row")
    for name in of_modality(names, "text"):
        column = table.column(name)
        length = pc.fill_null(pc.utf8_length(column), 0).to_numpy()
        for row in rows[length[rows] > processor.config.max_characters].tolist():
            found[row] = text.too_long(column[row].as_py(), processor.config)
    for name in of_modality(names, "series"):
        there = pc.is_valid(table.column(name)).to_numpy(zero_copy_only=False).astype(bool)
        for row in rows[there[rows]].tolist():
            try:
                values = series_of(manifest, name, row, processor.config)
                standardise(np.asarray(values), processor.scale_of(name))
            except MediaError as error:
                found[row] = error
    return found
