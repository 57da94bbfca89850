"""Fit scikit-learn's estimators to the labels of a task, and return outputs of the task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import FusionDataset
from ..tasks import Task
from ..tasks.scale import restore

Matrix = Any  # [N, D], dense or sparse
Fitted = Callable[[Matrix], np.ndarray]  # features of N rows -> Predictions.output
Key = TypeVar("Key")

_ITERATIONS = 200


def linear(task: Task, x: Matrix, y: np.ndarray, strengths: Sequence[float]) -> dict[float, Fitted]:
    """Fit logistic regressions, or ridge regressions.

    Args:
        x: [N, D].
        y: the targets of the N rows, see `targets`.
        strengths: the inverse regularisation strengths C; a ridge regression has alpha = 1 / C.

    Returns:
        C -> the fitted model.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    if task.problem_type == "regression":
        return {each: fit(task, Ridge(alpha=1 / each), x, y) for each in strengths}
    return {
        each: fit(task, LogisticRegression(C=each, max_iter=_ITERATIONS), x, y)
        for each in strengths
    }


def boosting(
    task: Task, x: np.ndarray, y: np.ndarray, categorical: list[bool], seed: int
) -> Fitted:
    """Fit gradient boosted trees.

    Args:
        x: float [N, D]; NaN is a missing value.
        y: the targets of the N rows, see `targets`.
        categorical: whether each of the D features is a category.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    numbers = task.problem_type == "regression"
    estimator = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
    # Early stopping would fail if a label has only one row.
    model = estimator(
        categorical_features=categorical if any(categorical) else None,
        early_stopping=False,
        random_state=seed,
    )
    return fit(task, model, x, y)


def targets(dataset: FusionDataset, rows: Sequence[int]) -> np.ndarray:
    """Return the labels of rows: int64 [N], 0 or 1 [N, C], or numbers in the label's units [N]."""
    labels = dataset.labels(rows)
    task = dataset.processor.task
    if task.problem_type == "regression":
        return restore(labels, task.scale).numpy()
    return labels.long().numpy()


def fit(task: Task, model: Any, x: Matrix, y: np.ndarray) -> Fitted:
    """Fit an unfitted estimator; for several labels per row, one for each label (one-vs-rest)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a solver may stop before it has converged
        if task.problem_type == "regression":
            return model.fit(x, y).predict
        if task.problem_type == "multiclass":
            return _probabilities(model, x, y, len(task.labels))
        each = [_probabilities(model, x, column, 2) for column in y.reshape(len(y), -1).T]
    if task.problem_type == "binary":
        return lambda x: each[0](x)[:, 1]
    return lambda x: np.stack([of(x)[:, 1] for of in each], axis=1)


def _probabilities(model: Any, x: Matrix, y: np.ndarray, labels: int) -> Fitted:
    """Fit a classifier; a label without a row has the probability 0."""
    from sklearn.base import clone
    from sklearn.dummy import DummyClassifier

    several = y.min() < y.max()  # no classifier learns from rows that have the same label
    fitted = (clone(model) if several else DummyClassifier()).fit(x, y)

    def output(x: Matrix) -> np.ndarray:
        found = np.zeros((x.shape[0], labels))
        found[:, fitted.classes_] = fitted.predict_proba(x)
        return found

    return output


def outputs(fitted: Mapping[Key, Fitted], parts: Iterable[Matrix]) -> dict[Key, Tensor]:
    """Apply models to the features of rows, which are given in parts."""
    found: dict[Key, list[np.ndarray]] = {key: [] for key in fitted}
    for x in parts:
        for key, each in fitted.items():
            found[key].append(each(x))
    return {key: torch.from_numpy(np.concatenate(each)) for key, each in found.items()}
