"""Fit the weights of the fusion's logits and of single inputs' readouts to the validation rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batch import IGNORE, to_device
from ..config.schema import BATCH_SIZE
from ..data.dataset import FusionDataset
from ..models.network import equal_mixture, mix
from .objective import Objective

_ROWS = 2000  # that are enough for a few weights
_ITERATIONS = 50


def fit_mixture(model: nn.Module, dataset: FusionDataset, objective: Objective) -> Tensor:
    """Return the mixture of a model's parts that is best on the rows of a dataset, [1 + R].

    Every process computes it alone, from the same rows.

    Args:
        model: a FusionNetwork, perhaps wrapped, in evaluation mode.
        dataset: labelled rows; of many, some are used.
        objective: the loss of a batch.
    """
    device = next(model.parameters()).device
    count = min(len(dataset), _ROWS)
    rows = [number * len(dataset) // count for number in range(count)]
    parts, labels = [], []
    with torch.no_grad():
        for start in range(0, count, BATCH_SIZE):
            batch = to_device(dataset.batch(rows[start : start + BATCH_SIZE]), device)
            parts.append(model(batch, parts=True).cpu().double())  # an Apple GPU has no float64
            labels.append(batch["label"].cpu())
    found, label = _joined(parts, labels)
    return fit_weights(found, lambda logits: objective(logits, label, smooth=False), count)


def _joined(parts: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Join batches; steps are padded to the longest row."""
    if parts[0].dim() == 4:
        longest = max(each.shape[2] for each in parts)
        parts = [functional.pad(each, (0, 0, 0, longest - each.shape[2])) for each in parts]
        labels = [
            functional.pad(each, (0, longest - each.shape[1]), value=IGNORE)
            if each.dim() == 2
            else each
            for each in labels
        ]
    return torch.cat(parts, 1), torch.cat(labels)


def fit_weights(parts: Tensor, loss: Callable[[Tensor], Tensor], rows: int) -> Tensor:
    """Return the weights of a sum of logits, at least 0, that minimise the loss, [P].

    They minimise `rows` times the mean loss, plus their squared distance from equal weights of
    the readouts and none of the fusion: a Gaussian prior, which a few rows do not outweigh. The
    fusion memorises a small table, and has to show on the validation rows that it helps.

    Args:
        parts: float64 [P, ...], the logits to add up: the fusion's, then at least one readout's.
        loss: maps logits, [...], to the mean loss.
        rows: the number of rows.
    """
    prior = equal_mixture(len(parts) - 1).double()
    prior[0] = 0
    weights = prior.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = rows * loss(mix(weights, parts)) + (weights - prior).square().sum()
        total.backward()
        return total

    optimizer.step(closure)
    found = weights.detach().clamp_min(0).float()
    return found if bool(found.isfinite().all()) else prior.float()
