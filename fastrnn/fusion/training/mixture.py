"""Fit the weights of the fusion's logits and of single inputs' readouts to the validation rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from ..batch import IGNORE
from ..config.schema import BATCH_SIZE
from ..models.network import equal_mixture, mix
from .objective import Objective

_ROWS = 2000  # that are enough for a few weights
_NUMBERS = 20_000_000  # logits in memory at once
_ITERATIONS = 50

Outputs = tuple[float, Tensor, Tensor]  # a batch's mass, parts of the logits [P, B, ...], labels


def fit_mixture(
    network: nn.Module,
    outputs: Iterator[Outputs],
    longest: int,
    objective: Objective,
    accelerator: Accelerator,
) -> Iterator[Outputs]:
    """Set the mixture of a network that is best on the first batches; return all batches.

    All processes call it together, and get the same mixture.

    Args:
        outputs: those of this process's batches; a network's outputs do not depend on its mixture.
        longest: the steps of the longest row.
        objective: the loss of a batch.
    """
    mixture = network.get_buffer("mixture")
    numbers = len(mixture) * objective.task.num_outputs * longest
    rows = min(_ROWS, _NUMBERS // numbers)
    count = max(1, math.ceil(rows / (BATCH_SIZE * accelerator.num_processes)))
    first = list(islice(outputs, count))
    parts, label = _joined(gather_object([(each.cpu(), own.cpu()) for _, each, own in first]))
    parts = parts.double()  # on a CPU: an Apple GPU has no float64
    found = fit_weights(parts, lambda logits: objective(logits, label, smooth=False), len(label))
    mixture.copy_(broadcast(found.to(accelerator.device)))
    return chain(first, outputs)


def _joined(batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join the parts and the labels of batches; steps are padded to the longest row."""
    parts, labels = ([each[place] for each in batches if len(each[1])] for place in (0, 1))
    if parts[0].dim() == 4:
        longest = max(each.shape[2] for each in parts)
        parts = [functional.pad(each, (0, 0, 0, longest - each.shape[2])) for each in parts]
        labels = [
            functional.pad(each, (0, longest - each.shape[1]), value=IGNORE) for each in labels
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

    @torch.enable_grad()
    def total(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(values.copy()).requires_grad_()
        value = rows * loss(mix(weights, parts)) + (weights - prior).square().sum()
        value.backward()
        assert weights.grad is not None
        return value.item(), weights.grad.numpy()

    found = minimize(
        total,
        prior.numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(parts),
        options={"maxiter": _ITERATIONS},
    )
    return torch.from_numpy(found.x).float() if math.isfinite(found.fun) else prior.float()
