"""Scores as functions of item weights, [R, N] for R weightings at once.

Weights of one give the score itself. The weights of a bootstrap (how often each row was drawn) give
its interval: a few matrix products compute all resamples. torchmetrics does not support weights;
the tests compare these scores with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

Metrics = dict[str, Tensor]

_TINY = 1e-12  # replaces a probability that float32 rounded to 0


def classification(
    probabilities: Tensor,
    truth: Tensor,
    predicted: Tensor,
    weights: Tensor,
    areas: bool,
    positive: int | None = None,
) -> Metrics:
    """Compute the scores of predictions with one label per item.

    Args:
        probabilities: [N, C].
        truth, predicted: int64 [N].
        areas: whether to compute AUROC.
        positive: the label whose F1 and AUROC count; None for the mean of all labels.
    """
    classes = probabilities.shape[1]
    present = _per_class(weights, truth, classes)  # [R, C]
    right = _per_class(weights * (predicted == truth), truth, classes)
    said = _per_class(weights, predicted, classes)
    f1 = 2 * right / (present + said)  # NaN for a class that is neither present nor predicted
    own = probabilities.gather(1, truth[:, None])[:, 0]
    result = {
        "accuracy": right.sum(1) / present.sum(1),
        "balanced_accuracy": (right / present).nanmean(1),
        "f1": f1.nanmean(1) if positive is None else f1[:, positive],
    }
    if areas:
        scored = range(classes) if positive is None else [positive]
        each = [auroc(probabilities[:, c], truth == c, weights) for c in scored]
        result["auroc"] = torch.stack(each, dim=1).nanmean(1)
    result["log_loss"] = _mean(-own.clamp_min(_TINY).log(), weights)
    return result


def multilabel(
    output: Tensor, truth: Tensor, predicted: Tensor, weights: Tensor, areas: bool
) -> Metrics:
    """Compute the scores of predictions with any number of labels per item, each [N, C]."""
    truth, predicted = truth.to(weights.dtype), predicted.to(weights.dtype)
    right = weights @ (truth * predicted)  # [R, C]
    either = weights @ truth + weights @ predicted
    same = (truth == predicted).to(weights.dtype)
    result = {
        "accuracy": _mean(same.mean(1), weights),
        "exact_match": _mean(same.amin(1), weights),
        "f1": (2 * right / either).nanmean(1),
        "f1_micro": 2 * right.sum(1) / either.sum(1),
    }
    if areas:
        each = [auroc(output[:, c], truth[:, c] == 1, weights) for c in range(output.shape[1])]
        result["auroc"] = torch.stack(each, dim=1).nanmean(1)
    return result


def regression(output: Tensor, truth: Tensor, weights: Tensor) -> Metrics:
    """Compute R² and the mean errors of predicted numbers [N]."""
    truth = truth.to(weights.dtype)
    error = output.to(weights.dtype) - truth
    total = weights.sum(1)
    squared = weights @ error.square()
    centred = truth - truth.mean()  # a large mean would lose the difference to rounding
    mean = weights @ centred / total
    square = weights @ centred.square()
    spread = square - total * mean.square()
    spread = torch.where(spread > 1e-12 * square, spread, torch.nan)  # equal values, but rounded
    return {
        "r2": 1 - squared / spread,
        "mae": _mean(error.abs(), weights),
        "rmse": (squared / total).sqrt(),
    }


def auroc(score: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
    """Compute how often a positive item scores above a negative one; equal scores count half.

    Args:
        score: [N].
        positive: bool [N].
        weights: [R, N].

    Returns:
        [R]; NaN if there are only positive or only negative items.
    """
    ordered, order = score.sort()
    _, group, size = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    end = size.cumsum(0)  # of each group of equal scores
    weights, positive = weights[:, order], positive[order]
    up, down = weights * positive, weights * ~positive
    below = torch.cat([up.new_zeros(len(up), 1), up.cumsum(1)], dim=1)  # [R, N + 1]
    first, last = below[:, end - size], below[:, end]
    total = below[:, -1:]
    above = (total - last + (last - first) / 2)[:, group]
    return (down * above).sum(1) / (down.sum(1) * total[:, 0])


def plain(value: float | Tensor) -> float | None:
    """Round a number for JSON: to six decimals, or to six significant digits below 1.

    A number that is not finite becomes None.
    """
    value = float(value)
    if not abs(value) < float("inf"):
        return None
    return float(f"{value:.6g}") if abs(value) < 1 else round(value, 6)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return weights @ values.to(weights.dtype) / weights.sum(1)


def _per_class(weights: Tensor, label: Tensor, classes: int) -> Tensor:
    """Sum the weights [R, N] by the label [N] of each item: [R, classes]."""
    return weights.new_zeros(len(weights), classes).index_add_(1, label, weights)
