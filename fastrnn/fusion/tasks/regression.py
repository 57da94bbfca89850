"""Regression: one number per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, FusionError, ManifestError
from . import curves, metrics
from .base import Explained, Metrics, Predictions, Record, Task, precise
from .labels import Label, number
from .scale import FARTHEST, LARGEST, formatted, restore, scales

_STRATA = 10  # deciles of the values, for a stratified split


class Regression(Task):
    """A number, which is standardised for the network."""

    problem_type: ClassVar[str] = "regression"
    score_name: ClassVar[str] = "r2"

    @classmethod
    def parse(cls, label: Label) -> Label:
        if not isinstance(label, str):
            raise FusionError("got a list of labels; write one label")
        value = number(label)
        if value is None:
            raise FusionError(
                f"{label!r} is not a finite number; fix it, or choose another problem type"
            )
        if abs(value) > LARGEST:
            raise FusionError(f"{label} is beyond ±{LARGEST:g}; use larger units for the label")
        return label

    @classmethod
    def fit(cls, labels: Sequence[Label]) -> Task:
        values = np.array([float(str(label)) for label in labels])
        if not np.ptp(values):
            raise ManifestError(
                "all training rows have the same label value; give at least two different values"
            )
        ((mean, deviation),) = scales(lambda: [values[:, None]])
        if (mean, deviation) == (values[0], 1):  # treated as a constant
            raise ManifestError(
                f"the training labels differ from their mean, {mean:g}, by no more than rounding "
                "error; subtract the mean from them"
            )
        return cls(scale=(mean, deviation))

    @classmethod
    def strata(cls, labels: Sequence[Label]) -> list[str]:
        """Return the decile of each row's value."""
        order = np.argsort([float(str(label)) for label in labels], kind="stable")
        result = np.empty(len(order), dtype=int)
        result[order] = np.arange(len(order)) * _STRATA // len(order)
        return [str(each) for each in result]

    @property
    def num_outputs(self) -> int:
        return 1

    def indices(self, label: Label) -> list[int]:
        return []  # any number may occur

    def encode(self, label: Label) -> np.ndarray:
        mean, deviation = self.scale or (0.0, 1.0)
        value = (float(str(label)) - mean) / deviation
        if abs(value) > FARTHEST:
            raise ManifestError(
                f"{label} is more than {FARTHEST:g} standard deviations from the mean of the "
                "training labels; fix it, or remove the row"
            )
        return np.float32(value)

    def loss(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        return F.mse_loss(logits[:, 0], label.to(logits.dtype))

    def balance(self, label: Tensor) -> Tensor:
        raise ConfigError("balance does not apply to regression; omit it")

    def statistics(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the count, the sum and the sum of squares of the labels, and the squared error."""
        label = label.to(precise(label.device))
        error = logits[:, 0].to(label) - label
        count = torch.full_like(label.sum(), len(label))
        return torch.stack([count, label.sum(), label.square().sum(), error.square().sum()])

    def score(self, statistics: Tensor) -> float:
        """Compute R², or NaN for fewer than two rows, which have no variance to explain."""
        count, total, squares, error = statistics.tolist()
        if count < 2:
            return float("nan")
        spread = squares - total * total / count
        return 1 - error / spread if spread > 0 else float("nan")

    def predict(self, logits: Tensor) -> Tensor:
        return logits[..., 0]

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits[:, 0]

    def output(self, logits: Tensor) -> Tensor:
        return restore(super().output(logits), self.scale)

    def choose(self, output: Tensor, threshold: float = 0.5) -> Tensor:
        return output

    def decode(self, output: Tensor, threshold: float = 0.5) -> Record:
        return {"value": float(output)}

    def fields(self) -> list[tuple[str, pa.DataType]]:
        return [("value", pa.float64())]

    def matches(self, prediction: Tensor, wanted: Tensor, other: Tensor) -> Tensor:
        """Whether predictions are nearer to `wanted` than to `other`."""
        return (prediction - wanted).abs() < (prediction - other).abs()

    def items(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.output(logits), restore(label.cpu(), self.scale), torch.arange(len(label))

    def metrics(
        self,
        predictions: Predictions,
        weights: Tensor,
        threshold: float = 0.5,
        *,
        areas: bool = True,
    ) -> Metrics:
        return metrics.regression(predictions.output, predictions.truth, weights)

    def details(self, predictions: Predictions) -> dict[str, Any]:
        return {"points": curves.points(predictions.output, predictions.truth)}

    def explained(self, logits: Tensor, label: Tensor) -> Explained:
        return Explained(
            lambda found: found[0, 0],
            {
                "truth": formatted(float(restore(label[0], self.scale)), self.scale),
                "answer": formatted(float(restore(logits[0, 0], self.scale)), self.scale),
            },
        )

    @classmethod
    def describe(cls, labels: Sequence[Label]) -> str:
        values = {float(str(label)) for label in labels}
        if not values:
            return "none"
        return f"{min(values):g} to {max(values):g}, {len(values)} different"
