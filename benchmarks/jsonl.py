"""JSON Lines: a file of one JSON object a line, appended to by processes that may die."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


def append(path: Path, **entry: Any) -> None:
    """Append an entry; the file holds it when this returns."""
    with path.open("a") as file:
        # The newline first ends a line that another process left incomplete.
        file.write("\n" + json.dumps(entry))


def read(path: Path) -> list[dict[str, Any]]:
    """All complete entries; none if there is no file."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries
