"""A journal: one JSON object a line, so that what a process found outlives it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


def append(path: Path, **entry: Any) -> None:
    """Add one entry; it is on file when this returns."""
    with path.open("a") as file:
        # A line that another process was cut off in is ended first.
        file.write("\n" + json.dumps(entry))


def read(path: Path) -> list[dict[str, Any]]:
    """All entries; none where there is no file. A line cut off in the middle is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries
