"""Losses, predictions and scores for each problem type.

Symbols: B rows, T steps, C labels.

| problem_type | logits | label | |
|---|---|---|---|
| binary | [B, 1] | int64 [B] | the logit of the second label |
| multiclass | [B, C] | int64 [B] | |
| multilabel | [B, C] | float32 [B, C], 0 or 1 | any number of labels per row |
| steps | [B, T, C] | int64 [B, T] | IGNORE for a step without a label |
| regression | [B, 1] | float32 [B] | a standardised number |
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAccuracy
from torchmetrics.regression import R2Score

from ..data.processor import IGNORE
from .scale import Scale, restore

#: The name of each problem type's score; higher is better.
SCORES = {
    "binary": "accuracy",
    "multiclass": "accuracy",
    "multilabel": "accuracy",
    "regression": "r2",
    "steps": "accuracy",
}


def loss(problem_type: str, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the mean loss over rows, rows and labels (multilabel), or steps with a label.

    The loss is 0 if no step of the batch has a label.

    Args:
        logits, label: as in the table above.
        weight: float [C], for unbalanced labels. For multiclass and steps, the weight of each
            label in the weighted mean. For binary ([1]) and multilabel, the weight of a present
            label; an absent one has weight 1. Not used for regression.
    """
    if problem_type == "binary":
        target = label.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits[:, 0], target, pos_weight=weight)
    if problem_type == "multilabel":
        target = label.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    if problem_type == "regression":
        return F.mse_loss(logits[:, 0], label.to(logits.dtype))
    if problem_type == "multiclass":
        return F.cross_entropy(logits, label, weight)
    logits, label = logits.flatten(0, -2), label.flatten()
    scored = label != IGNORE
    total = F.cross_entropy(logits, label, weight, ignore_index=IGNORE, reduction="sum")
    each = scored.to(total.dtype) if weight is None else weight[label.clamp_min(0)] * scored
    share = each.sum()
    return total / torch.where(share > 0, share, 1)


def predict(problem_type: str, logits: Tensor) -> Tensor:
    """Return the prediction for each row or step.

    Returns:
        The index of the label, int64 [B] or [B, T]; for multilabel int64 [B, C] of 0 and 1; for
        regression the standardised number [B].
    """
    if problem_type == "regression":
        return logits[:, 0]
    if problem_type == "binary":
        return (logits[:, 0] > 0).long()
    return (logits > 0).long() if problem_type == "multilabel" else logits.argmax(-1)


def probabilities(problem_type: str, logits: Tensor) -> Tensor:
    """Return the probabilities of the labels.

    Returns:
        Binary: [B], of the second label. Multiclass and multilabel: [B, C]. Steps: [B, T, C].
        Regression has no probabilities and returns the number itself, [B].
    """
    if problem_type == "regression":
        return logits[:, 0]
    if problem_type == "binary":
        return logits[:, 0].sigmoid()
    return logits.sigmoid() if problem_type == "multilabel" else logits.softmax(-1)


def answers(problem_type: str, logits: Tensor, scale: Scale | None = None) -> Tensor:
    """Return `probabilities` in float64, and for a regression the numbers in the label's units.

    Args:
        scale: mean and deviation of a regression's training labels.
    """
    found = probabilities(problem_type, logits.cpu().double())  # some devices have no float64
    return restore(found, scale) if problem_type == "regression" else found


class _R2(R2Score):
    """R², or NaN for fewer than two rows, which have no variance to explain."""

    def compute(self) -> Tensor:
        if self.total < 2:
            return torch.full_like(self.sum_error, float("nan")).squeeze()
        return super().compute()


def metric(problem_type: str, labels: int) -> Metric:
    """Create the metric of a problem type's score (see `SCORES`).

    Update it with (predict(problem_type, logits), label). It is R² for regression, else accuracy
    over rows, over steps with a label, or over rows × labels.
    """
    if problem_type == "regression":
        return _R2()
    options: dict[str, Any] = {"average": "micro", "validate_args": False}
    if problem_type == "multilabel":
        return MultilabelAccuracy(labels, **options)
    return MulticlassAccuracy(labels, ignore_index=IGNORE, **options)


def outputs(problem_type: str, labels: int) -> int:
    """Return the number of logits of a problem type."""
    return 1 if problem_type in ("binary", "regression") else labels
