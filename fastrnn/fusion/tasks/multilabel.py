"""Classification with any number of labels per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FusionError
from . import curves, metrics
from .base import Explained, Metrics, Predictions, Record, Task
from .classification import by_name, rarest, smoothed
from .labels import SEPARATOR, Label, canonical
from .metrics import plain


class Multilabel(Task):
    """Each label applies to a row or does not, independently of the others."""

    problem_type: ClassVar[str] = "multilabel"
    min_labels: ClassVar[int] = 1

    @classmethod
    def parse(cls, label: Label) -> Label:
        parts = label.split(SEPARATOR) if isinstance(label, str) else label
        names = [canonical(part.strip()) for part in parts if part is not None and part.strip()]
        if isinstance(label, str) and not names:
            raise FusionError(f"{label!r} contains no label; write [] for a row without labels")
        return tuple(dict.fromkeys(names))

    @classmethod
    def strata(cls, labels: Sequence[Label]) -> list[str]:
        return rarest(labels)

    def encode(self, label: Label) -> np.ndarray:
        result = np.zeros(len(self.labels), np.float32)
        result[self.indices(label)] = 1
        return result

    def loss(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        target = smoothed(label.to(logits.dtype), smoothing)
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)

    def balance(self, label: Tensor) -> Tensor:
        having = label.sum(0)
        # A label that all rows have keeps some weight: with 0, it would not be learned.
        return (len(label) - having).clamp_min(1) / having.clamp_min(1)

    def statistics(self, logits: Tensor, label: Tensor) -> Tensor:
        right = (self.predict(logits) == label).sum()
        return torch.stack([right, torch.full_like(right, label.numel())])

    def predict(self, logits: Tensor) -> Tensor:
        return (logits > 0).long()

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def choose(self, output: Tensor, threshold: float = 0.5) -> Tensor:
        return (output > threshold).long()

    def decode(self, output: Tensor, threshold: float = 0.5) -> Record:
        values = output.tolist()
        chosen = [
            name for name, value in zip(self.labels, values, strict=True) if value > threshold
        ]
        return {"label": chosen, "probabilities": by_name(self.labels, values)}

    def fields(self) -> list[tuple[str, pa.DataType]]:
        named = pa.struct([(name, pa.float64()) for name in self.labels])
        return [("label", pa.list_(pa.string())), ("probabilities", named)]

    def items(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.output(logits), label.cpu().long(), torch.arange(len(label))

    def metrics(
        self,
        predictions: Predictions,
        weights: Tensor,
        threshold: float = 0.5,
        *,
        areas: bool = True,
    ) -> Metrics:
        return metrics.multilabel(
            predictions.output, predictions.truth, predictions.predicted, weights, areas
        )

    def details(self, predictions: Predictions) -> dict[str, Any]:
        output, truth = predictions.output, predictions.truth
        found: dict[str, Any] = {
            "calibration": curves.calibration(output.flatten(), truth.flatten() == 1)
        }
        if len(self.labels) <= curves.MOST_LABELS:
            found["confusion"] = curves.confusion_of_each(truth, predictions.predicted)
        return found

    def explained(self, logits: Tensor, label: Tensor) -> Explained:
        """Explain the most probable label."""
        chances = logits[0].sigmoid()
        likeliest = int(chances.argmax())

        def joined(applies: Tensor) -> str:
            names = zip(self.labels, applies.tolist(), strict=True)
            return " | ".join(name for name, on in names if on) or "none"

        return Explained(
            lambda found: found[0, likeliest],
            {
                "truth": joined(label[0]),
                "answer": joined(chances > 0.5),
                "explained": self.labels[likeliest],
                "probability": plain(chances[likeliest]),
            },
        )
