"""The rows of a table as they are read: dicts of cells, or the errors of damaged rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ..errors import ManifestError

Record = dict[str, Any]
Records = Iterator[tuple[str, Record | ManifestError]]  # the position for messages, and the row


def names_of(records: Records) -> tuple[str, ...]:
    """Return the columns of all records, in the order in which they appear.

    Raises:
        ManifestError: the first damaged row's, if no row has a column.
    """
    names: dict[str, None] = {}
    damaged: ManifestError | None = None
    for _, record in records:
        if isinstance(record, dict):
            names |= dict.fromkeys(record)
        else:
            damaged = damaged or record
    if damaged and not names:
        raise damaged
    return tuple(names)


def stripped(value: Any) -> Any:
    """Return the cell, or None if it is empty."""
    if isinstance(value, str):
        return value.strip() or None
    return None if isinstance(value, float) and math.isnan(value) else value


def parsed(value: Any) -> Any:
    """Parse a cell that contains a JSON list; return anything else unchanged."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
