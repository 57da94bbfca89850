"""The tables and texts that `fastrnn evaluate` and `fastrnn explain` print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ..strings import plural


def evaluation(found: Mapping[str, Any]) -> Iterator[Table | Text]:
    """Yield the scores of all models, their comparison, and the robustness of the main model."""
    score = found["score"]
    title = f"{score} on {plural(found['rows'], 'row')} ({found['split']}), 95% intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for column in (score, "interval", "parameters"):
        table.add_column(column, justify="right")
    for name, model in found["models"].items():
        value = model["scores"][score]
        table.add_row(name, _number(value["value"]), _interval(value), f"{model['parameters']:,}")
    yield table
    if found["skipped"]:
        yield Text(f"{plural(len(found['skipped']), 'row')} skipped, see evaluation.json")
    for line in found["comparison"]:
        yield Text(line["summary"])
    if found["robustness"]:
        yield _robustness(found["robustness"], score)


def _robustness(rows: list[Mapping[str, Any]], score: str) -> Table:
    table = Table(title="Robustness", title_justify="left")
    for column in ("modality", "change"):
        table.add_column(column)
    for column in ("strength", score, "drop"):
        table.add_column(column, justify="right")
    for row in rows:
        strength = "" if row["strength"] is None else f"{row['strength']:g}"
        value, lost = row["score"], row["drop"]
        table.add_row(row["modality"], row["change"], strength, _number(value), _number(lost))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(value: Mapping[str, float | None]) -> str:
    return f"{_number(value['low'])} – {_number(value['high'])}"


def explanation(found: Mapping[str, Any]) -> Iterator[Table | Text]:
    """Yield the ablation of modalities, and the score without interactions between them."""
    title = f"Ablation of modalities: {found['score']} of {found['model']}"
    table = Table(title=title, title_justify="left")
    table.add_column("modality")
    for column in ("unchanged", "from other rows", "removed", "alone"):
        table.add_column(column, justify="right")
    for row in found["ablation"]:
        names = ("unchanged", "shuffled", "removed", "alone")
        table.add_row(row["modality"], *(_number(row.get(name)) for name in names))
    yield table
    if found["skipped"]:
        yield Text(f"{plural(len(found['skipped']), 'row')} skipped, see explanation.json")
    yield Text("removed: missing from every row; alone: all other modalities removed")
    emap = found["emap"]
    if emap:
        yield Text(
            f"Interaction of modalities on {plural(emap['rows'], 'row')}: {found['score']} "
            f"{_number(emap['additive'])} without it (EMAP), {_number(emap['score'])} with it"
        )
