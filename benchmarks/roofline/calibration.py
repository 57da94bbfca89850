"""Parse the output of a calibration program, which prints a line of JSON for each constant."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any


def parse(output: str) -> dict[str, Any]:
    """Return the measured constants by name, and the errors. Other lines are ignored."""
    measured, errors = {}, []
    for line in output.splitlines():
        with suppress(json.JSONDecodeError, KeyError, TypeError):
            entry = json.loads(line)
            if "error" in entry:
                errors.append(f"{entry['name']}: {entry['error']}")
            else:
                measured[entry["name"]] = entry["value"]
    return {"measured": measured, "errors": errors}
