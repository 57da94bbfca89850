"""The table of a run's results, with the score of a constant prediction."""

from __future__ import annotations

from rich.table import Table

from ..data.processor import IGNORE
from ..strings import plural
from ..tasks.objectives import SCORES
from ..training.baselines import Run


def commonest(run: Run) -> float | None:
    """Return the accuracy of always predicting the most frequent training label.

    None for kinds "regression" and "multilabel".
    """
    if run.config.model.problem_type not in ("binary", "multiclass", "steps"):
        return None
    labels = run.config.labels
    counts = [0] * len(labels)
    for each in run.examples["train"].labels:
        for value in each.flatten().tolist():
            if value != IGNORE:
                counts[value] += 1
    answer = counts.index(max(counts))
    judged = [
        value
        for each in run.examples.get("test", run.examples["val"]).labels
        for value in each.flatten().tolist()
        if value != IGNORE
    ]
    return judged.count(answer) / len(judged)


def results(run: Run) -> Table:
    """Create the table of results, one row for each model."""
    split = "test" if "test" in run.examples else "val"
    rows = len(run.examples[split])
    score = SCORES[run.config.model.problem_type]
    title = f"{score[0].upper()}{score[1:]} on {plural(rows, f'{split} row')}"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for column in (score, "loss", "parameters", "seconds"):
        table.add_column(column, justify="right")
    for each in run.trained:
        table.add_row(
            each.name,
            f"{each.judged.score:.3f}",
            f"{each.judged.loss:.3f}",
            f"{each.parameters:,}",
            f"{each.seconds:.1f}",
        )
    chance = commonest(run)
    if chance is not None:
        table.add_row("most frequent label", f"{chance:.3f}", "", "", "")
    return table
