"""JSON Lines: one JSON object per line, appended by processes that may be killed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


def append(path: Path, **entry: Any) -> None:
    """Append an entry, and close the file."""
    with path.open("a") as file:
        # The newline comes first: it ends a line that a killed process left incomplete.
        file.write("\n" + json.dumps(entry))


def read(path: Path) -> list[dict[str, Any]]:
    """Return all complete entries; the file may be missing."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries
