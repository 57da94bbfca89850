"""Render the report's templates, which escape all text, with filters for scores and pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..strings import count, number, plural

_SCORE_NAMES = {
    "auroc": "AUROC",
    "f1": "F1",
    "f1_micro": "micro F1",
    "mae": "MAE",
    "r2": "R²",
    "rmse": "RMSE",
}


def render(template: str, values: Mapping[str, Any]) -> str:
    """Render a template of the folder templates/.

    Raises:
        jinja2.TemplateError: the template is missing, or uses a value that is not given.
    """
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "data_uri": data_uri,
        "interval": interval,
        "number": number,
        "parameters": count,
        "plural": plural,
        "score_name": score_name,
        "signed": signed,
    }
    return environment.get_template(template).render(values)


def score_name(key: str) -> str:
    """Return a score's name for readers: "log_loss" becomes "log loss", "r2" becomes "R²"."""
    return _SCORE_NAMES.get(key, key.replace("_", " "))


def interval(score: Mapping[str, float | None]) -> str:
    """Format the bounds of a score's interval."""
    return f"{number(score['low'])} to {number(score['high'])}"


def signed(value: float | None) -> str:
    """Format a change, always with its sign; None becomes a dash."""
    # Adding 0 makes a rounded −0 positive.
    return "–" if value is None else f"{round(value, 3) + 0:+.3f}".replace("-", "−")


def data_uri(path: Path) -> str:
    """Return a PNG file as a data URI, which embeds it in the page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
