"""Scores of predictions, and their bootstrap confidence intervals.

Every score is a function of row weights, [R, N] for R weightings at once. Weights of one give the
score itself. The weights of a bootstrap (how often each row was drawn) give its interval: a few
matrix products compute all resamples. torchmetrics does not support weights; the tests compare
these scores with it. The bootstrap draws rows, not single steps: the steps of a row stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_roc

from ..tasks import objectives

RESAMPLES = 500
LEVEL = 0.95  # confidence level of the intervals
BINS = 10  # bins of a reliability diagram
_BLOCK = 4_000_000  # weights in memory at once

Scores = dict[str, Tensor]  # name -> [R], one value per weighting


@dataclass(frozen=True)
class Answers:
    """The predictions of a model: N items, one per row, or one per step that has a label.

    | problem_type | output | truth |
    |---|---|---|
    | binary | [N], the probability of the second label | int64 [N] |
    | multiclass, steps | [N, C] probabilities | int64 [N] |
    | multilabel | [N, C] probabilities | int64 [N, C] of 0 and 1 |
    | regression | [N] values in the units of the labels | [N] in the same units |
    """

    problem_type: str
    labels: tuple[str, ...]
    output: Tensor
    truth: Tensor
    row: Tensor  # int64 [N]: the row of each item
    rows: int

    @property
    def predicted(self) -> Tensor:
        """The predicted label of each item, in the format of `truth`: [N] or [N, C]."""
        if self.problem_type == "regression":
            return self.output
        if self.problem_type in ("binary", "multilabel"):
            return (self.output > 0.5).long()
        return self.output.argmax(-1)

    @property
    def by_class(self) -> Tensor:
        """Probabilities with one column per label: [N, C]."""
        if self.problem_type == "binary":
            return torch.stack([1 - self.output, self.output], dim=1)
        return self.output


def scores(
    answers: Answers, weights: Tensor, threshold: float = 0.5, *, areas: bool = True
) -> Scores:
    """Compute every score of the problem type under each weighting.

    Args:
        weights: [R, rows].
        threshold: the probability above which the second label is predicted (binary only).
        areas: whether to compute AUROC, which takes most of the time.

    Returns:
        name -> [R]; NaN where a score is undefined, such as AUROC without one of the labels.
    """
    weights = weights[:, answers.row]
    if answers.problem_type == "regression":
        return _regression(answers, weights)
    if answers.problem_type == "multilabel":
        return _multilabel(answers, weights, areas)
    probabilities, truth = answers.by_class, answers.truth
    predicted = answers.predicted
    if answers.problem_type == "binary":
        predicted = (answers.output > threshold).long()
    classes = probabilities.shape[1]
    present = _per_class(weights, truth, classes)  # [R, C]
    right = _per_class(weights * (predicted == truth), truth, classes)
    said = _per_class(weights, predicted, classes)
    f1 = 2 * right / (present + said)  # NaN for a class that is neither present nor predicted
    own = probabilities.gather(1, truth[:, None])[:, 0]
    result = {
        "accuracy": right.sum(1) / present.sum(1),
        "balanced_accuracy": (right / present).nanmean(1),
        "f1": f1[:, 1] if answers.problem_type == "binary" else f1.nanmean(1),
    }
    if areas and answers.problem_type == "binary":
        result["auroc"] = auroc(answers.output, truth == 1, weights)
    elif areas:
        each = [auroc(probabilities[:, c], truth == c, weights) for c in range(classes)]
        result["auroc"] = torch.stack(each, dim=1).nanmean(1)
    result["log_loss"] = _mean(-own.clamp_min(_TINY).log(), weights)
    return result


_TINY = 1e-12  # replaces a probability that float32 rounded to 0


def _regression(answers: Answers, weights: Tensor) -> Scores:
    truth = answers.truth.to(weights.dtype)
    error = answers.output.to(weights.dtype) - truth
    total = weights.sum(1)
    squared = weights @ error.square()
    centred = truth - truth.mean()  # a large mean would lose the difference to rounding
    mean = weights @ centred / total
    spread = weights @ centred.square() - total * mean.square()
    return {
        "r2": 1 - squared / spread,
        "mae": _mean(error.abs(), weights),
        "rmse": (squared / total).sqrt(),
    }


def _multilabel(answers: Answers, weights: Tensor, areas: bool) -> Scores:
    truth, predicted = answers.truth.to(weights.dtype), answers.predicted.to(weights.dtype)
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
        each = [
            auroc(answers.output[:, c], truth[:, c] == 1, weights) for c in range(len(right[0]))
        ]
        result["auroc"] = torch.stack(each, dim=1).nanmean(1)
    return result


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return weights @ values.to(weights.dtype) / weights.sum(1)


def _per_class(weights: Tensor, label: Tensor, classes: int) -> Tensor:
    """Sum the weights [R, N] by the label [N] of each item: [R, classes]."""
    return weights.new_zeros(len(weights), classes).index_add_(1, label, weights)


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


@dataclass(frozen=True)
class Interval:
    """A score and the bounds of its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return plain JSON values; undefined ones are null."""
        return {name: plain(getattr(self, name)) for name in ("value", "low", "high")}


def plain(value: float | Tensor) -> float | None:
    """Round a number for JSON: to six decimals, or to six significant digits below 1.

    A number that is not finite becomes None.
    """
    value = float(value)
    if not abs(value) < float("inf"):
        return None
    return float(f"{value:.6g}") if abs(value) < 1 else round(value, 6)


def value(answers: Answers, name: str) -> float:
    """Compute one score over all rows. AUROC is not available here."""
    ones = torch.ones(1, answers.rows, dtype=torch.float64)
    return float(scores(answers, ones, areas=False)[name])


def intervals(answers: Answers, seed: int = 0, threshold: float = 0.5) -> dict[str, Interval]:
    """Compute every score with its interval. The same seed draws the same rows for every model."""
    ones = torch.ones(1, answers.rows, dtype=torch.float64)
    values = scores(answers, ones, threshold)
    drawn = resample(lambda weights: scores(answers, weights, threshold), answers.rows, seed)
    return {name: interval(float(value), drawn[name]) for name, value in values.items()}


def difference(a: Answers, b: Answers, name: str, seed: int = 0) -> Interval:
    """Compute the score `name` of `a` minus that of `b`, with a paired bootstrap over rows."""

    def minus(weights: Tensor) -> Scores:
        first, second = (scores(each, weights, areas=False)[name] for each in (a, b))
        return {name: first - second}

    ones = torch.ones(1, a.rows, dtype=torch.float64)
    return interval(float(minus(ones)[name]), resample(minus, a.rows, seed)[name])


def interval(value: float, drawn: Tensor) -> Interval:
    """Return the value with the central LEVEL interval of the drawn scores."""
    drawn = drawn[drawn.isfinite()]
    if not len(drawn):
        return Interval(value, float("nan"), float("nan"))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=drawn.dtype)
    low, high = torch.quantile(drawn, tails).tolist()
    return Interval(value, low, high)


def resample(score: Callable[[Tensor], Scores], rows: int, seed: int) -> Scores:
    """Compute `score` for RESAMPLES bootstrap draws of `rows` rows, with replacement."""
    parts = [score(weights) for weights in _draws(rows, seed)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _draws(rows: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    block = max(1, min(RESAMPLES, _BLOCK // rows))
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        drawn = torch.randint(rows, (count, rows), generator=generator)
        ones = torch.ones(count, rows, dtype=torch.float64)
        yield torch.zeros_like(ones).scatter_add_(1, drawn, ones)


def main_score(problem_type: str) -> str:
    """Return the name of the score that compares models; higher is better."""
    return objectives.SCORES[problem_type]


def threshold(answers: Answers) -> float:
    """Return the threshold of a binary model that maximises balanced accuracy on these rows.

    The second label is predicted above it. It is halfway between two of the rows' probabilities,
    or 0.5 if that is as good or only one label occurs.
    """
    known = answers.output.unique()
    cuts = torch.cat([known.new_tensor([0.5]), (known[1:] + known[:-1]) / 2])
    truth = answers.truth == 1
    if not truth.any() or truth.all():
        return 0.5
    up, _ = answers.output[truth].sort()
    down, _ = answers.output[~truth].sort()
    hit = 1 - torch.searchsorted(up, cuts, right=True) / len(up)
    rejected = torch.searchsorted(down, cuts, right=True) / len(down)
    return float(cuts[(hit + rejected).argmax()])


def confusion(answers: Answers) -> list[list[int]]:
    """Return the confusion matrix: rows are true labels, columns predicted labels.

    Multilabel: for each label [[true negative, false positive], [false negative, true positive]].
    """
    truth, predicted = answers.truth, answers.predicted
    if answers.problem_type == "multilabel":
        kinds = 2 * truth + predicted  # [N, C]
        return [torch.bincount(each, minlength=4).tolist() for each in kinds.t()]
    classes = len(answers.labels)
    counts = torch.bincount(truth * classes + predicted, minlength=classes**2)
    return counts.view(classes, classes).tolist()


def calibration(answers: Answers) -> dict[str, object]:
    """Compute a reliability diagram with equal bins of confidence, and the calibration error.

    The expected calibration error is the mean gap between confidence and accuracy, weighted by the
    items in each bin. Confidence is the probability of the predicted label. For binary and
    multilabel it is the probability of the (second) label, compared with how often it is true.
    """
    if answers.problem_type in ("binary", "multilabel"):
        confidence, right = answers.output.flatten(), answers.truth.flatten() == 1
    else:
        confidence, right = answers.output.max(-1).values, answers.predicted == answers.truth
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


def roc(answers: Answers, points: int = 200) -> dict[str, list[float]]:
    """Return the ROC curve of a binary model, thinned to at most `points` points."""
    false, true, _ = binary_roc(answers.output.float(), answers.truth)
    keep = torch.linspace(0, len(false) - 1, min(points, len(false))).round().long()
    return {
        "false_positive": [round(float(each), 5) for each in false[keep]],
        "true_positive": [round(float(each), 5) for each in true[keep]],
    }
