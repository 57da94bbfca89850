"""The interface of a problem type: what labels are, how they are learned, predicted and scored.

Symbols: B rows, T steps, C labels, N items (rows, or the steps that have a label), R weightings.

| task | logits | label | prediction |
|---|---|---|---|
| Binary | [B, 1], of the second label | int64 [B] | int64 [B] |
| Multiclass | [B, C] | int64 [B] | int64 [B] |
| Multilabel | [B, C] | float32 [B, C], 0 or 1 | int64 [B, C], 0 or 1 |
| Steps | [B, T, C] | int64 [B, T], IGNORE for a step without a label | int64 [B, T] |
| Regression | [B, 1] | float32 [B], standardised | [B], standardised |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..errors import ConfigError, ManifestError
from .labels import Label, canonical, counted, names_of, sort_names
from .scale import Scale

Record = dict[str, Any]
Metrics = dict[str, Tensor]  # name -> [R], one value per weighting


def precise(device: torch.device) -> torch.dtype:
    """Return the type of sums on a device: float64, which Apple's GPUs do not have, or float32."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Predictions:
    """The outputs of a model for N items, with the truth; see `Task.items`.

    | task | output | truth |
    |---|---|---|
    | Binary | [N], the probability of the second label | int64 [N] |
    | Multiclass, Steps | [N, C] probabilities | int64 [N] |
    | Multilabel | [N, C] probabilities | int64 [N, C] of 0 and 1 |
    | Regression | [N] values in the units of the labels | [N] in the same units |
    """

    task: Task
    output: Tensor
    truth: Tensor
    row: Tensor  # int64 [N]: the row of each item
    rows: int

    @property
    def predicted(self) -> Tensor:
        """The predicted label of each item, in the format of `truth`: [N] or [N, C]."""
        return self.task.choose(self.output)


@dataclass(frozen=True)
class Explained:
    """The logit that an attribution explains, and a description of the prediction."""

    logit: Callable[[Tensor], Tensor]  # logits of one row -> []
    description: dict[str, Any]


@dataclass(frozen=True)
class Task(ABC):
    """A problem type with the labels of the training rows.

    Args:
        labels: the names in the order of the outputs; empty for a regression.
        scale: the mean and standard deviation of a regression's training labels.
    """

    labels: tuple[str, ...] = ()
    scale: Scale | None = None

    problem_type: ClassVar[str]
    score_name: ClassVar[str] = "accuracy"  # the score that compares models; higher is better
    per_step: ClassVar[bool] = False
    has_threshold: ClassVar[bool] = False  # whether a decision threshold can be tuned
    min_labels: ClassVar[int] = 2  # different labels that the training rows must have

    # Labels of a table

    @classmethod
    @abstractmethod
    def parse(cls, label: Label) -> Label:
        """Convert a label to the form of the task: a name, or a tuple of names.

        Raises:
            FusionError: the label does not fit the task; the message says what to write.
        """

    @classmethod
    def fit(cls, labels: Sequence[Label]) -> Task:
        """Learn the task from the labels of the training rows.

        Raises:
            ManifestError: they have too few different values.
        """
        names = sort_names(name for label in labels for name in names_of(label) if name)
        if len(names) < cls.min_labels:
            only = next(iter(names), "none")
            raise ManifestError(
                f"the training rows have only one label ({only}); give at least two"
            )
        return cls(names)

    @classmethod
    def strata(cls, labels: Sequence[Label]) -> list[str]:
        """Return the stratum of each row, for a stratified split."""
        return ["" for _ in labels]

    @property
    def num_outputs(self) -> int:
        """Number of logits per row, or per step."""
        return len(self.labels)

    @abstractmethod
    def encode(self, label: Label) -> np.ndarray:
        """Convert a parsed label to the `label` of a batch, without its dimension B.

        Raises:
            ManifestError: the label was not in training.
        """

    def indices(self, label: Label) -> list[int]:
        """Return the index of each name in a label.

        Raises:
            ManifestError: a name was not in training.
        """
        known = self._indices
        unknown = [name for name in names_of(label) if name not in known]
        if unknown:
            raise ManifestError(
                f"the label {unknown[0]!r} was not in training ({', '.join(self.labels[:10])}); "
                "fix it, or remove the row"
            )
        return [known[name] for name in names_of(label)]

    @cached_property
    def _indices(self) -> dict[str, int]:
        exact = {name: number for number, name in enumerate(self.labels)}
        # An older model may have labels that are not in their canonical form.
        return {canonical(name): number for name, number in exact.items()} | exact

    # Training

    @abstractmethod
    def loss(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the mean loss over rows, rows and labels (Multilabel), or steps with a label.

        The loss is 0 if no step of the batch has a label.

        Args:
            weight: float [C], for unbalanced labels. Multiclass and Steps: the weight of each label
                in the weighted mean. Binary ([1]) and Multilabel: the weight of a present label;
                an absent one has weight 1. Not used for a regression.
            smoothing: the share of a label that is divided equally among all labels, as in
                cross_entropy; for Binary and Multilabel, among present and absent. Not used for a
                regression.
        """

    def class_weight(self, given: Mapping[str, float]) -> Tensor:
        """Return the `weight` of labels, name -> weight; the other labels have weight 1.

        Returns:
            [C]; [1] for Binary: the weight of the second label divided by that of the first.

        Raises:
            ConfigError: a label is unknown (the message lists the labels), or numbers have none.
        """
        weight = torch.ones(len(self.labels))
        for name, value in given.items():
            if canonical(name) not in self._indices:
                known = ", ".join(self.labels) or "none, as labels are numbers"
                raise ConfigError(f"class_weight: unknown label {name!r}; the labels are {known}")
            weight[self._indices[canonical(name)]] = value
        return weight

    @abstractmethod
    def balance(self, label: Tensor) -> Tensor:
        """Compute the `weight` that balances the labels of some rows, or all of their steps.

        Returns:
            [1] for Binary: the ratio of rows with the first label to rows with the second. [C] for
            Multiclass and Steps: the inverse of each label's share, divided by C. [C] for
            Multilabel: the ratio of rows without the label to rows with it.
        """

    def masses(self, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute each row's share of the divisor in `loss`: float64 [B].

        The mean loss of a batch is the mean of the mean losses of its parts, weighted by their
        masses, for any division into parts. A step without a label adds nothing. With `weight`, a
        label of Multiclass or Steps adds its weight.
        """
        return torch.ones(len(label), dtype=torch.float64, device=label.device)

    @abstractmethod
    def statistics(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compute sums over a batch that `score` needs: [S]. Those of several batches add up."""

    def score(self, statistics: Tensor) -> float:
        """Compute the main score from the sum of `statistics`; here right / all."""
        right, count = statistics.tolist()
        return right / count if count else float("nan")

    # Predictions

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """Return the prediction for each row or step; see the table in the module's docstring."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the labels.

        Returns:
            Binary: [B], of the second label. Multiclass and Multilabel: [B, C]. Steps: [B, T, C].
            A regression has no probabilities and returns the standardised number, [B].
        """

    def output(self, logits: Tensor) -> Tensor:
        """Return `probabilities` in float64, or a regression's numbers in the label's units."""
        return self.probabilities(logits.cpu().double())  # some devices have no float64

    @abstractmethod
    def choose(self, output: Tensor, threshold: float = 0.5) -> Tensor:
        """Return the labels predicted by an `output`, in the format of Predictions.truth."""

    @abstractmethod
    def decode(self, output: Tensor, threshold: float = 0.5) -> Record:
        """Convert the `output` of one row to a record of its prediction."""

    @abstractmethod
    def fields(self) -> list[tuple[str, pa.DataType]]:
        """Return the Arrow fields of a record of `decode`."""

    def matches(self, prediction: Tensor, wanted: Tensor, other: Tensor) -> Tensor:
        """Whether predictions equal `wanted` and not `other`, bool of their shape."""
        return prediction == wanted

    # Evaluation

    def items(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convert a batch to the output, the truth and the row of Predictions."""
        return self.output(logits), label, torch.arange(len(label))

    @abstractmethod
    def metrics(
        self,
        predictions: Predictions,
        weights: Tensor,
        threshold: float = 0.5,
        *,
        areas: bool = True,
    ) -> Metrics:
        """Compute every score under each weighting of the items.

        Args:
            weights: [R, N].
            threshold: the probability above which the second label is predicted (Binary only).
            areas: whether to compute AUROC, which takes most of the time.

        Returns:
            name -> [R]; NaN where a score is undefined, such as AUROC without one of the labels.
        """

    @abstractmethod
    def details(self, predictions: Predictions) -> dict[str, Any]:
        """Return the curves and tables of some predictions, as plain JSON values."""

    @abstractmethod
    def explained(self, logits: Tensor, label: Tensor) -> Explained:
        """Choose the logit that explains the prediction of one row, [1, ...]."""

    @classmethod
    def describe(cls, labels: Sequence[Label]) -> str:
        """Return the labels and their counts as text; for a regression, the range."""
        return counted(labels)
