"""Test the tables that the commands print."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fastrnn.fusion.config.schema import PROBLEM_TYPES
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.explain.explainer import explain_run
from fastrnn.fusion.report import console as tables

from ..trained import trained_run

exhaustive = pytest.mark.exhaustive


def printed(*parts) -> str:
    console = Console(file=io.StringIO(), width=160)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem_type",
    [
        pytest.param(each, marks=() if each in ("multiclass", "regression") else exhaustive)
        for each in PROBLEM_TYPES
    ],
)
def test_tables_of_every_problem_type(problem_type, tmp_path):
    run = trained_run(tmp_path, problem_type, baselines=False)
    score = "r2" if problem_type == "regression" else "accuracy"
    fitted = printed(tables.results(run))
    assert f"{score.capitalize()} on 4 test rows" in fitted
    assert f"{run.trained[0].test_score.score:.3f}" in fitted
    constant = problem_type in ("binary", "multiclass", "steps")
    assert ("most frequent label" in fitted) == constant
    found = evaluate_run(run.folder)
    evaluated = printed(*tables.evaluation(found))
    assert found["verdict"] in " ".join(evaluated.split())
    assert f"{score} on 4 rows (test), 95% intervals" in evaluated
    assert "Robustness" in evaluated
    explained = printed(*tables.explanation(explain_run(run.folder, examples=1)))
    assert f"Ablation of modalities: {score} of fusion" in explained
    assert "Interaction of modalities on" in explained


def test_accuracy_of_the_most_frequent_training_label(tmp_path):
    """It is counted over steps that have a label."""
    run = trained_run(tmp_path, "steps", baselines=False)
    train, test = (
        [value for value in run.datasets[split].labels().flatten().tolist() if value >= 0]
        for split in ("train", "test")
    )
    frequent = max(sorted(set(train)), key=train.count)
    share = test.count(frequent) / len(test)
    lines = printed(tables.results(run)).splitlines()
    line = next(line for line in lines if "most frequent label" in line)
    assert f"{share:.3f}" in line
