"""Classification with one label per row (Binary, Multiclass), or one per step (Steps)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import IGNORE
from ..errors import FusionError, ManifestError
from . import curves, metrics
from .base import Explained, Metrics, Predictions, Record, Task
from .labels import Label, names_of
from .metrics import plain


class _Single(Task):
    """One label per row."""

    @classmethod
    def parse(cls, label: Label) -> Label:
        if not isinstance(label, str):
            raise FusionError("got a list of labels; write one label")
        return label

    @classmethod
    def strata(cls, labels: Sequence[Label]) -> list[str]:
        return [str(label) for label in labels]

    def encode(self, label: Label) -> np.ndarray:
        return np.int64(self.indices(label)[0])

    def fields(self) -> list[tuple[str, pa.DataType]]:
        return [("label", pa.string()), ("probabilities", _struct(self.labels))]

    def metrics(
        self,
        predictions: Predictions,
        weights: Tensor,
        threshold: float = 0.5,
        *,
        areas: bool = True,
    ) -> Metrics:
        return metrics.classification(
            predictions.output, predictions.truth, predictions.predicted, weights, areas
        )


class Binary(_Single):
    """Two labels, one logit: that of the second label."""

    problem_type: ClassVar[str] = "binary"
    has_threshold: ClassVar[bool] = True

    @classmethod
    def fit(cls, labels: Sequence[Label]) -> Task:
        task = super().fit(labels)
        if len(task.labels) > 2:
            raise ManifestError(
                f"the problem type is binary, but there are {len(task.labels)} labels "
                f"({', '.join(task.labels[:4])}...); choose problem type multiclass"
            )
        return task

    @property
    def num_outputs(self) -> int:
        return 1

    def loss(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        target = smoothed(label.to(logits.dtype), smoothing)
        return F.binary_cross_entropy_with_logits(logits[:, 0], target, pos_weight=weight)

    def class_weight(self, given: Mapping[str, float]) -> Tensor:
        first, second = super().class_weight(given).split(1)
        return second / first

    def balance(self, label: Tensor) -> Tensor:
        counts = torch.bincount(label, minlength=2).clamp_min(1)
        return counts[:1] / counts[1:]

    def statistics(self, logits: Tensor, label: Tensor) -> Tensor:
        return _right(self.predict(logits), label)

    def predict(self, logits: Tensor) -> Tensor:
        return (logits[:, 0] > 0).long()

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits[:, 0].sigmoid()

    def choose(self, output: Tensor, threshold: float = 0.5) -> Tensor:
        return (output > threshold).long()

    def decode(self, output: Tensor, threshold: float = 0.5) -> Record:
        second = float(output)
        named = by_name(self.labels, (1 - second, second))
        return {"label": self.labels[second > threshold], "probabilities": named}

    def metrics(
        self,
        predictions: Predictions,
        weights: Tensor,
        threshold: float = 0.5,
        *,
        areas: bool = True,
    ) -> Metrics:
        second = predictions.output
        predicted = self.choose(second, threshold)
        both = torch.stack([1 - second, second], dim=1)
        return metrics.classification(both, predictions.truth, predicted, weights, areas, 1)

    def details(self, predictions: Predictions) -> dict[str, Any]:
        output, truth = predictions.output, predictions.truth
        return {
            "calibration": curves.calibration(output, truth == 1),
            "confusion": curves.confusion(truth, predictions.predicted, 2),
            "roc": curves.roc(output, truth),
        }

    def explained(self, logits: Tensor, label: Tensor) -> Explained:
        answered = int(logits[0, 0] > 0)
        sign = 1 if answered else -1
        return Explained(
            lambda found: sign * found[0, 0],
            {
                "truth": self.labels[int(label[0])],
                "answer": self.labels[answered],
                "probability": plain((sign * logits[0, 0]).sigmoid()),
            },
        )


class Multiclass(_Single):
    """One of several labels per row."""

    problem_type: ClassVar[str] = "multiclass"

    def loss(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        return F.cross_entropy(logits, label, weight, label_smoothing=smoothing)

    def balance(self, label: Tensor) -> Tensor:
        return _inverse_share(label, self.num_outputs)

    def masses(self, label: Tensor, weight: Tensor | None = None) -> Tensor:
        return super().masses(label) if weight is None else weight.double()[label]

    def statistics(self, logits: Tensor, label: Tensor) -> Tensor:
        return _right(self.predict(logits), label)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def choose(self, output: Tensor, threshold: float = 0.5) -> Tensor:
        return output.argmax(-1)

    def decode(self, output: Tensor, threshold: float = 0.5) -> Record:
        values = output.tolist()
        return {
            "label": self.labels[int(output.argmax())],
            "probabilities": by_name(self.labels, values),
        }

    def details(self, predictions: Predictions) -> dict[str, Any]:
        truth, predicted = predictions.truth, predictions.predicted
        confidence = predictions.output.max(-1).values
        found: dict[str, Any] = {"calibration": curves.calibration(confidence, predicted == truth)}
        if len(self.labels) <= curves.MOST_LABELS:
            found["confusion"] = curves.confusion(truth, predicted, len(self.labels))
        return found

    def explained(self, logits: Tensor, label: Tensor) -> Explained:
        answered = int(logits[0].argmax())
        return Explained(
            lambda found: found[0, answered],
            {
                "truth": self.labels[int(label[0])],
                "answer": self.labels[answered],
                "probability": plain(logits[0].softmax(-1)[answered]),
            },
        )


class Steps(Multiclass):
    """One label per step of a stream, or none."""

    problem_type: ClassVar[str] = "steps"
    per_step: ClassVar[bool] = True

    @classmethod
    def parse(cls, label: Label) -> Label:
        if isinstance(label, str):
            raise FusionError("got one label; write a list with one label per step")
        if all(each is None for each in label):
            raise FusionError("no step has a label; remove the row")
        return label

    @classmethod
    def strata(cls, labels: Sequence[Label]) -> list[str]:
        return ["" for _ in labels]

    def encode(self, label: Label) -> np.ndarray:
        found = iter(self.indices(label))
        return np.array([IGNORE if name is None else next(found) for name in label], np.int64)

    def loss(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        logits, label = logits.flatten(0, -2), label.flatten()
        scored = label != IGNORE
        total = F.cross_entropy(
            logits,
            label,
            weight,
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=smoothing,
        )
        each = scored.to(total.dtype) if weight is None else weight[label.clamp_min(0)] * scored
        share = each.sum()
        return total / torch.where(share > 0, share, 1)

    def balance(self, label: Tensor) -> Tensor:
        return _inverse_share(label[label != IGNORE], self.num_outputs)

    def masses(self, label: Tensor, weight: Tensor | None = None) -> Tensor:
        scored = label != IGNORE
        if weight is None:
            return scored.sum(-1).double()
        return (weight.double()[label.clamp_min(0)] * scored).sum(-1)

    def fields(self) -> list[tuple[str, pa.DataType]]:
        return [
            ("label", pa.list_(pa.string())),
            ("probabilities", pa.list_(_struct(self.labels))),
        ]

    def decode(self, output: Tensor, threshold: float = 0.5) -> Record:
        return {
            "label": [self.labels[each] for each in output.argmax(-1).tolist()],
            "probabilities": [by_name(self.labels, row) for row in output.tolist()],
        }

    def items(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scored = (label != IGNORE).cpu()
        row = torch.arange(len(label))[:, None].expand(label.shape)
        return self.output(logits)[scored], label.cpu()[scored], row[scored]

    def explained(self, logits: Tensor, label: Tensor) -> Explained:
        """Explain the last step that has a label."""
        step = int((label[0] != IGNORE).nonzero()[-1])
        answered = int(logits[0, step].argmax())
        return Explained(
            lambda found: found[0, step, answered],
            {
                "truth": self.labels[int(label[0, step])],
                "answer": self.labels[answered],
                "step": step + 1,
                "probability": plain(logits[0, step].softmax(-1)[answered]),
            },
        )


def smoothed(target: Tensor, smoothing: float) -> Tensor:
    """Move targets of 0 and 1 towards 0.5 by a share of the way."""
    return target if smoothing == 0 else target * (1 - smoothing) + smoothing / 2


def by_name(labels: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Return the probability of each label, with the digits that float32 resolves."""
    return {name: float(f"{value:.7g}") for name, value in zip(labels, values, strict=True)}


def rarest(labels: Sequence[Label]) -> list[str]:
    """Return the rarest name of each label, or "" if it has none."""
    count = Counter(name for label in labels for name in names_of(label))
    return [
        min(names_of(label), key=lambda name: (count[name], name), default="") for label in labels
    ]


def _struct(labels: Sequence[str]) -> Any:
    return pa.struct([(name, pa.float64()) for name in labels])


def _right(predicted: Tensor, label: Tensor) -> Tensor:
    """Count the right predictions and all, [2]; items without a label count in neither."""
    scored = label != IGNORE
    right = ((predicted == label) & scored).sum()
    return torch.stack([right, scored.sum()])


def _inverse_share(label: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(label.flatten(), minlength=max(2, classes)).clamp_min(1)
    return counts.sum() / (counts * len(counts))
