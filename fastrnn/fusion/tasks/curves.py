"""Curves and tables of predictions: threshold, confusion, calibration and ROC."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .metrics import plain

BINS = 10  # bins of a reliability diagram
_FEWEST = 10  # rows of a label for which a threshold is tuned
MOST_LABELS = 50  # no one can read a larger confusion matrix


def threshold(output: Tensor, truth: Tensor) -> float:
    """Return the threshold of probabilities [N] that maximises balanced accuracy.

    The second label is predicted above it. It is halfway between two of the rows' probabilities,
    or 0.5 if that is as good or only one label occurs.
    """
    known = output.unique()
    cuts = torch.cat([known.new_tensor([0.5]), (known[1:] + known[:-1]) / 2])
    positive = truth == 1
    if not positive.any() or positive.all():
        return 0.5
    up, _ = output[positive].sort()
    down, _ = output[~positive].sort()
    hit = 1 - torch.searchsorted(up, cuts, right=True) / len(up)
    rejected = torch.searchsorted(down, cuts, right=True) / len(down)
    return float(cuts[(hit + rejected).argmax()])


def safe_threshold(output: Tensor, truth: Tensor) -> float:
    """Return `threshold` if it is clearly better than 0.5 on these rows, else 0.5.

    The best threshold on few rows fits their noise, and costs accuracy on other rows. So each label
    needs at least 10 rows, accuracy may not fall, and balanced accuracy must rise by two standard
    errors. With one standard error, a simulated model that needed no threshold lost half a point of
    accuracy with 50 rows; with two it lost 0.02 points, and a biased one still gained 4 of the 7
    points that the best threshold gains.
    """
    best = threshold(output, truth)
    rows = torch.bincount(truth, minlength=2)
    if best == 0.5 or rows.min() < _FEWEST:
        return 0.5
    before, after = (_right(output, truth, cut) for cut in (0.5, best))
    if after.sum() < before.sum():
        return 0.5
    rate = (before + 1) / (rows + 2)  # never 0 or 1, whose error would be 0
    error = (rate * (1 - rate) / rows).sum().sqrt() / 2
    gain = (after / rows).mean() - (before / rows).mean()
    return best if gain >= 2 * error else 0.5


def _right(output: Tensor, truth: Tensor, cut: float) -> Tensor:
    """Count the rows of each label that a threshold predicts right: [2]."""
    return torch.bincount(truth[(output > cut).long() == truth], minlength=2)


def confusion(truth: Tensor, predicted: Tensor, classes: int) -> list[list[int]]:
    """Return the confusion matrix: rows are true labels, columns predicted labels."""
    counts = torch.bincount(truth * classes + predicted, minlength=classes**2)
    return counts.view(classes, classes).tolist()


def confusion_of_each(truth: Tensor, predicted: Tensor) -> list[list[int]]:
    """Return [true negatives, false positives, false negatives, true positives] of each label.

    Args:
        truth, predicted: int64 [N, C] of 0 and 1.
    """
    return [torch.bincount(each, minlength=4).tolist() for each in (2 * truth + predicted).t()]


def calibration(confidence: Tensor, right: Tensor) -> dict[str, Any]:
    """Compute a reliability diagram with equal bins of confidence, and the calibration error.

    The expected calibration error is the mean gap between confidence and accuracy, weighted by the
    items in each bin.

    Args:
        confidence: probabilities [N].
        right: bool [N], whether what they are probabilities of is true.
    """
    index = (confidence * BINS).long().clamp(0, BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        inside = index == number
        count = int(inside.sum())
        if not count:
            continue
        mean, share = float(confidence[inside].mean()), float(right[inside].double().mean())
        error += count / len(confidence) * abs(mean - share)
        bins.append({"confidence": plain(mean), "right": plain(share), "items": count})
    return {"ece": plain(error), "bins": bins}


def roc(output: Tensor, truth: Tensor, points: int = 200) -> dict[str, list[float]]:
    """Return the ROC curve of probabilities [N], thinned to at most `points` points."""
    # torchmetrics takes two seconds and 100 MB to import, which a fit need not spend.
    from torchmetrics.functional.classification import binary_roc

    false, true, _ = binary_roc(output.float(), truth)
    keep = torch.linspace(0, len(false) - 1, min(points, len(false))).round().long()
    return {
        "false_positive": [round(float(each), 5) for each in false[keep]],
        "true_positive": [round(float(each), 5) for each in true[keep]],
    }


def points(output: Tensor, truth: Tensor, most: int = 1000) -> list[list[float | None]]:
    """Return [true value, prediction] of at most `most` items, for a plot."""
    keep = torch.linspace(0, len(truth) - 1, min(most, len(truth))).long()
    pairs = torch.stack([truth, output], dim=1)[keep]
    return [[each if math.isfinite(each) else None for each in pair] for pair in pairs.tolist()]
