"""What a model is trained towards, and what it answers, for each kind of label."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from .data import IGNORE


def loss(kind: str, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean loss over rows, or over steps that have a label.

    Args:
        kind: binary (logits [B, 1]: the second label's), multiclass ([B, C]) or steps ([B, T, C]).
        label: int [B], or [B, T] with IGNORE where nothing is asked.
        weight: of the second label against the first [1], or of each label [C].
    """
    if kind == "binary":
        truth = label.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits[:, 0], truth, pos_weight=weight)
    if kind == "multiclass":
        return F.cross_entropy(logits, label, weight)
    return F.cross_entropy(logits.flatten(0, 1), label.flatten(), weight, ignore_index=IGNORE)


def predict(kind: str, logits: Tensor) -> Tensor:
    """The number of the label answered: [B] or [B, T]."""
    return (logits[:, 0] > 0).long() if kind == "binary" else logits.argmax(-1)


def accuracy(labels: int) -> MulticlassAccuracy:
    """The share of right answers; steps with no label do not count."""
    return MulticlassAccuracy(labels, average="micro", ignore_index=IGNORE, validate_args=False)


def outputs(kind: str, labels: int) -> int:
    """How many logits the kind needs."""
    return 1 if kind == "binary" else labels
