"""The tables and texts that `fastrnn fit`, `evaluate` and `explain` print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from ..batch import IGNORE
from ..inference import outputs
from ..strings import count, number, plural
from ..training.baselines import Run


def results(run: Run) -> Table:
    """Create the table of a run's results: a row for each model, and one for a constant answer."""
    split = "test" if "test" in run.datasets else "val"
    score = run.processor.task.score_name
    title = f"{score[0].upper()}{score[1:]} on {plural(len(run.datasets[split]), f'{split} row')}"
    table = _table(title, ["model"], [score, "loss", "parameters", "seconds"])
    for each in run.trained:
        table.add_row(
            each.name,
            number(each.test_score.score),
            number(each.test_score.loss),
            f"{each.parameters:,}",
            f"{each.seconds:.1f}",
        )
    for other in run.classical:
        found = other.predictions(run.datasets[split], split)
        if found is not None:
            seconds = f"{other.config.seconds:.1f}"
            table.add_row(other.name, number(outputs.score(found)), "", "", seconds)
    constant = _most_frequent_accuracy(run, split)
    if constant is not None:
        table.add_row("most frequent label", number(constant), "", "", "")
    return table


def cross_validation(found: Mapping[str, Any]) -> Table:
    """Create the table of a cross-validation.

    Args:
        found: the content of cross_validation.json.
    """
    score, folds = found["score"], range(1, found["folds"] + 1)
    title = f"{score[0].upper()}{score[1:]} on the test rows of {plural(len(folds), 'fold')}"
    columns = ["mean", "std", *(f"fold {each}" for each in folds)]
    table = _table(title, ["model"], columns)
    for name, model in found["models"].items():
        table.add_row(name, *map(number, (model["mean"], model["std"], *model["scores"])))
    return table


def _most_frequent_accuracy(run: Run, split: str) -> float | None:
    """Return the accuracy of always predicting the most frequent training label.

    None for regression and multilabel.
    """
    if run.processor.task.problem_type in ("multilabel", "regression"):
        return None
    frequent = np.bincount(_labels(run, "train")).argmax()
    return float((_labels(run, split) == frequent).mean())


def _labels(run: Run, split: str) -> np.ndarray:
    """Return the labels of all rows and steps of a split, [N]."""
    labels = run.datasets[split].flat_labels()
    return labels[labels != IGNORE].numpy()


def evaluation(found: Mapping[str, Any]) -> Iterator[Table | Text]:
    """Yield the scores of all models, their comparison, and the robustness of the main model.

    Args:
        found: the content of evaluation.json.
    """
    score = found["score"]
    title = f"{score} on {plural(found['rows'], 'row')} ({found['split']}), 95% intervals"
    table = _table(title, ["model"], [score, "interval", "parameters"])
    for name, model in found["models"].items():
        main = model["scores"][score]
        interval = f"{number(main['low'])} – {number(main['high'])}"
        table.add_row(name, number(main["value"]), interval, count(model["parameters"]))
    yield table
    yield Text(found["verdict"], style="bold")
    if found["left_out"]:
        yield Text(
            f"left out: {', '.join(found['left_out'])}; only their outputs for the val and test "
            "rows of the fit are saved"
        )
    if found["skipped"]:
        yield Text(f"{plural(len(found['skipped']), 'row')} skipped, see evaluation.json")
    for entry in found["comparison"]:
        yield Text(entry["summary"])
    if found["robustness"]:
        yield _robustness(found["robustness"], score)


def _robustness(records: list[Mapping[str, Any]], score: str) -> Table:
    table = _table("Robustness", ["modality", "change"], ["strength", score, "drop"])
    for record in records:
        strength = "" if record["strength"] is None else f"{record['strength']:g}"
        scores = (number(record["score"]), number(record["drop"]))
        table.add_row(record["modality"], record["change"], strength, *scores)
    return table


def explanation(found: Mapping[str, Any]) -> Iterator[Table | Text]:
    """Yield the ablation of modalities, and the score without interactions between them.

    Args:
        found: the content of explanation.json.
    """
    title = f"Ablation of modalities: {found['score']} of {found['model']}"
    table = _table(title, ["modality"], ["unchanged", "from other rows", "removed", "alone"])
    for row in found["ablation"]:
        scores = (row.get(key) for key in ("unchanged", "shuffled", "removed", "alone"))
        table.add_row(row["modality"], *(number(score) for score in scores))
    yield table
    if found["skipped"]:
        yield Text(f"{plural(len(found['skipped']), 'row')} skipped, see explanation.json")
    yield Text("removed: missing from every row; alone: all other modalities removed")
    emap = found["emap"]
    if emap:
        yield Text(
            f"Interaction of modalities on {plural(emap['rows'], 'row')}: {found['score']} "
            f"{number(emap['additive'])} without it (EMAP), {number(emap['score'])} with it"
        )


def _table(title: str, text_columns: list[str], number_columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in text_columns:
        table.add_column(column)
    for column in number_columns:
        table.add_column(column, justify="right")
    return table
