"""What a network is trained towards, and what it answers, for each kind of label.

B rows, T steps, C labels.

| kind | logits | label | |
|---|---|---|---|
| binary | [B, 1] | int64 [B] | the logit is the second label's |
| multiclass | [B, C] | int64 [B] | |
| multilabel | [B, C] | float32 [B, C], 0 or 1 | any number of labels a row |
| steps | [B, T, C] | int64 [B, T] | IGNORE where nothing is asked |
| regression | [B, 1] | float32 [B] | a number, standardised |
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAccuracy
from torchmetrics.regression import R2Score

from .data import IGNORE
from .scale import Scale, restore

#: The name of each kind's score, which is better the higher it is.
SCORES = {
    "binary": "accuracy",
    "multiclass": "accuracy",
    "multilabel": "accuracy",
    "regression": "r2",
    "steps": "accuracy",
}


def loss(kind: str, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean loss: over rows, over rows and labels (multilabel), or over steps with a label.

    It is 0 where no step of the batch has one.

    Args:
        logits, label: as the module's table says.
        weight: float [C], for labels that occur unevenly. multiclass, steps: of each label's
            rows, whose mean is weighted. binary ([1]), multilabel: of a label's presence, against
            1 for its absence. regression has none.
    """
    if kind == "binary":
        target = label.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits[:, 0], target, pos_weight=weight)
    if kind == "multilabel":
        target = label.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    if kind == "regression":
        return F.mse_loss(logits[:, 0], label.to(logits.dtype))
    if kind == "multiclass":
        return F.cross_entropy(logits, label, weight)
    logits, label = logits.flatten(0, -2), label.flatten()
    scored = label != IGNORE
    total = F.cross_entropy(logits, label, weight, ignore_index=IGNORE, reduction="sum")
    each = scored.to(total.dtype) if weight is None else weight[label.clamp_min(0)] * scored
    share = each.sum()
    return total / torch.where(share > 0, share, 1)


def predict(kind: str, logits: Tensor) -> Tensor:
    """What is answered: the label's number int64 [B] or [B, T]; multilabel: int64 [B, C] of 0 and
    1; regression: the number [B], standardised."""
    if kind == "regression":
        return logits[:, 0]
    if kind == "binary":
        return (logits[:, 0] > 0).long()
    return (logits > 0).long() if kind == "multilabel" else logits.argmax(-1)


def probabilities(kind: str, logits: Tensor) -> Tensor:
    """How sure the answer is: binary [B], of the second label; multiclass and multilabel [B, C];
    steps [B, T, C]; regression has none, and gives the number itself."""
    if kind == "regression":
        return logits[:, 0]
    if kind == "binary":
        return logits[:, 0].sigmoid()
    return logits.sigmoid() if kind == "multilabel" else logits.softmax(-1)


def answers(kind: str, logits: Tensor, scale: Scale | None = None) -> Tensor:
    """`probabilities` in float64; a regression's numbers in the label's units.

    Args:
        scale: of a regression's labels in training.
    """
    found = probabilities(kind, logits.cpu().double())  # on the CPU: not every device has float64
    return restore(found, scale) if kind == "regression" else found


class _R2(R2Score):
    """R²; not a number for fewer than two rows, which have no variance to explain."""

    def compute(self) -> Tensor:
        if self.total < 2:
            return torch.full_like(self.sum_error, float("nan")).squeeze()
        return super().compute()


def metric(kind: str, labels: int) -> Metric:
    """The kind's score, updated with (predict(kind, logits), label): see `SCORES`.

    The share of right answers: of rows, of steps with a label, or of rows × labels; or R².
    """
    if kind == "regression":
        return _R2()
    options: dict[str, Any] = {"average": "micro", "validate_args": False}
    if kind == "multilabel":
        return MultilabelAccuracy(labels, **options)
    return MulticlassAccuracy(labels, ignore_index=IGNORE, **options)


def outputs(kind: str, labels: int) -> int:
    """How many logits the kind needs."""
    return 1 if kind in ("binary", "regression") else labels
