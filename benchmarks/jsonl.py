"""A journal: one JSON object a line, so that what a process found outlives it.

Of a file that processes share, or of what a program prints.
"""

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


def constants(said: str) -> dict[str, Any]:
    """What a program said that prints a line of JSON for each constant: what it measured."""
    measured, errors = {}, []
    for line in said.splitlines():
        with suppress(json.JSONDecodeError, KeyError, TypeError):
            entry = json.loads(line)
            if "error" in entry:
                errors.append(f"{entry['name']}: {entry['error']}")
            else:
                measured[entry["name"]] = entry["value"]
    return {"measured": measured, "errors": errors}
