"""The rows of a table as they are read: dicts of cells, or the errors of damaged rows."""

from __future__ import annotations

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
