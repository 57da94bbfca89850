"""Test the sentence that says whether a fusion is worth its price."""

from __future__ import annotations

import pytest

from fastrnn.fusion.evaluation.verdict import verdict


def evaluation(*others, rows=200):
    """Return an evaluation of fusion, with score 0.8, and (name, score, low, high, parameters)."""

    def model(score, parameters, seconds=None):
        values = {"scores": {"accuracy": {"value": score}}}
        return values | {"parameters": parameters, "seconds": seconds}

    def gain(score, low, high):
        return {"value": None if score is None else 0.8 - score, "low": low, "high": high}

    models = {"fusion": model(0.8, 120_000, 61.2)}
    models |= {name: model(score, count) for name, score, _, _, count in others}
    comparison = [
        {"model": name, "gain": gain(score, low, high)} for name, score, low, high, _ in others
    ]
    return {
        "main": "fusion",
        "score": "accuracy",
        "rows": rows,
        "models": models,
        "comparison": comparison,
    }


LATE = ("late", 0.5, 0.2, 0.4, 240_000)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(
            evaluation(("text TF-IDF", 0.75, 0.01, 0.09, None), LATE),
            "fusion is better than text TF-IDF, the best of 2 other models: accuracy 0.800 vs "
            "0.750 on 200 rows, difference +0.050, 95% interval +0.010 to +0.090; it has 120,000 "
            "parameters and took 61 s to train",
            id="better",
        ),
        pytest.param(
            evaluation(("text TF-IDF", 0.9, -0.15, -0.05, None), LATE),
            "Use text TF-IDF instead: fusion is worse (accuracy 0.800 vs 0.900 on 200 rows, "
            "difference -0.100, 95% interval -0.150 to -0.050); text TF-IDF is the best of 2 other "
            "models on these rows, which flatters it",
            id="worse",
        ),
        pytest.param(
            evaluation(("text only", 0.9, -0.15, -0.05, 100)),
            "Use text only instead: fusion is worse (accuracy 0.800 vs 0.900 on 200 rows, "
            "difference -0.100, 95% interval -0.150 to -0.050)",
            id="worse than the only other",
        ),
        pytest.param(
            evaluation(("text only", 0.79, -0.02, 0.04, 100_000), LATE),
            "No significant difference between fusion and text only, the best of 2 other models "
            "(accuracy 0.800 vs 0.790 on 200 rows, difference +0.010, 95% interval -0.020 to "
            "+0.040): text only is cheaper, as fusion has 120,000 parameters and took 61 s to "
            "train",
            id="cheaper",
        ),
        pytest.param(
            evaluation(("late", 0.8, 0.0, 0.0, 240_000), rows=1),
            "No significant difference between fusion and late (accuracy 0.800 vs 0.800 on 1 row, "
            "difference +0.000, 95% interval +0.000 to +0.000): late is not cheaper",
            id="not cheaper",
        ),
        pytest.param(
            evaluation(("late", None, None, None, 240_000), rows=1),
            "These rows cannot show whether fusion is better than late (accuracy 0.800 vs – on 1 "
            "row)",
            id="undefined",
        ),
        pytest.param(
            evaluation(),
            "fusion was compared with no other model, so nothing shows whether it is worth its "
            "price; fit with baselines",
            id="alone",
        ),
    ],
)
def test_verdict(found, said):
    assert verdict(found) == said


def test_without_the_time_of_training():
    found = evaluation(("text only", 0.7, 0.05, 0.15, 100))
    found["models"]["fusion"]["seconds"] = None
    assert verdict(found).endswith("; it has 120,000 parameters")
