"""EMAP: how much of a model's score needs interactions between modalities.

Source: Hessel and Lee, Does my multimodal model learn cross-modal interactions?, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, to_device
from ..data.dataset import FusionDataset
from ..evaluation import perturbations
from ..evaluation.bootstrap import difference, value
from ..inference.loop import gather
from ..models.network import FusionNetwork
from ..tasks.metrics import plain


@torch.no_grad()
def emap(
    network: FusionNetwork, dataset: FusionDataset, rows: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Compare a network with its empirical multimodally-additive projection.

    The projection is the sum of functions of one modality each that is nearest to the network. Its
    logits are averages over recombined rows: over all pairs for two modalities, and for more
    modalities over as many mixtures of the others as there are rows. If the projection scores as
    well, the model gains nothing from interactions.

    Args:
        rows: the maximum number of rows. The network runs on rows² × modalities combinations.
            Of streams, only rows with the most common number of steps are used, so that any two
            can be combined.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    chosen = _recombinable(dataset, rows, generator)
    batch = to_device(dataset.batch(chosen), device)
    features = network.encode(batch)
    task = dataset.processor.task
    whole, projection = (
        gather(task, [task.items(logits, batch["label"].cpu())], len(chosen))
        for logits in (
            network.logits(features, batch),
            additive(network, features, batch, generator),
        )
    )
    same = (whole.predicted == projection.predicted).double().mean()
    gain = difference(whole, projection, task.score_name, seed)
    return {
        "rows": len(chosen),
        "score": plain(value(whole, task.score_name)),
        "additive": plain(value(projection, task.score_name)),
        "gain": gain.to_json(),
        "same_answers": plain(float(same)) if task.labels else None,
    }


def additive(
    network: FusionNetwork,
    features: Mapping[str, Tensor],
    batch: Batch,
    generator: torch.Generator,
) -> Tensor:
    """Compute the logits of the additive projection.

    For M modalities, they are the sum of the means with each modality fixed, minus M - 1 times the
    overall mean. Every row is combined exactly once with each row of every other modality.
    """
    rows = len(batch["label"])
    device = batch["label"].device
    # Each modality has its own random order, and is shifted once by each number of rows.
    order, shifts = (
        {name: torch.randperm(rows, generator=generator).to(device) for name in features}
        for _ in range(2)
    )
    here = torch.arange(rows, device=device)
    held = []
    for name in features:
        total = torch.zeros((), device=device)
        for number in range(rows):
            picked = {
                other: here
                if other == name
                else order[other][(here + shifts[other][number]) % rows]
                for other in features
            }
            mixed = {other: value[picked[other]] for other, value in features.items()}
            found = network.logits(mixed, perturbations.pick(batch, picked, {}))
            total = total + found.double()
        held.append(total / rows)
    everything = torch.stack(held).mean(0).mean(0, keepdim=True)
    return torch.stack(held).sum(0) - (len(held) - 1) * everything


def _recombinable(dataset: FusionDataset, most: int, generator: torch.Generator) -> list[int]:
    """Choose random rows that can be recombined."""
    steps = torch.from_numpy(dataset.steps)
    rows = (steps == steps.mode().values).nonzero()[:, 0]
    return rows[torch.randperm(len(rows), generator=generator)[:most]].tolist()
