"""Predictions as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ..tasks import Task
from .writers import Record


def prediction_frame(records: Iterable[Record], task: Task, errors: bool) -> pd.DataFrame:
    """Return a row for each record of `Predictor.predict`.

    Args:
        errors: whether there is a column `error`.

    Returns:
        The fields of a record. Except for steps, the probability of each label is a column,
        p(NAME).
    """
    rows = [_flat(record, task.per_step) for record in records]
    return pd.DataFrame(rows, columns=_columns(task) + ["error"] * errors)


def probability_frame(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the probabilities in a `prediction_frame`, with one column per label.

    For steps, a cell is a list with one probability per step, and empty for a skipped row.
    """
    if not task.per_step:
        found = predictions[[f"p({name})" for name in task.labels]]
        return found.set_axis(list(task.labels), axis=1)
    rows = [each if isinstance(each, list) else [] for each in predictions["probabilities"]]
    columns = {name: [[step[name] for step in row] for row in rows] for name in task.labels}
    return pd.DataFrame(columns, index=predictions.index)


def _columns(task: Task) -> list[str]:
    names = [name for name, _ in task.fields()]
    if task.per_step or "probabilities" not in names:
        return names
    return ["label", *(f"p({name})" for name in task.labels)]


def _flat(record: Mapping[str, Any], per_step: bool) -> Record:
    """Drop the row number; except for steps, give each label's probability a column."""
    flat = {name: value for name, value in record.items() if name != "row"}
    if not per_step:
        named = flat.pop("probabilities", {})
        flat |= {f"p({name})": each for name, each in named.items()}
    return flat
