"""Interventions on a trained network: does it combine modalities, and does its state remember?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.schema import RunConfig
from ..data.processor import IGNORE, Batch, Examples
from ..evaluation import metrics, perturbations
from ..evaluation.evaluator import items
from ..evaluation.metrics import Answers
from ..models.network import FusionNetwork
from ..models.recurrent import State, h_of, mapped
from ..tasks import objectives


def donors(batch: Batch, generator: torch.Generator) -> Tensor:
    """Choose for each row another row of the batch with the same number of steps, int64 [B].

    Each row is the donor of exactly one row. A row that is alone is its own donor.
    """
    rows = len(batch["label"])
    steps = batch["steps"].sum(1).cpu() if "steps" in batch else torch.zeros(rows)
    result = torch.arange(rows)
    for count in steps.unique():
        group = (steps == count).nonzero()[:, 0]
        group = group[torch.randperm(len(group), generator=generator)]
        result[group] = group.roll(1)
    return result.to(batch["label"].device)


@torch.no_grad()
def emap(
    network: FusionNetwork, config: RunConfig, examples: Examples, rows: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Measure how much of the score needs interactions between modalities (EMAP).

    Compares the network with its empirical multimodally-additive projection: the sum of functions
    of one modality each that is nearest to the network. The logits of the projection are averages
    over recombined rows: over all pairs for two modalities, and for more modalities over as many
    mixtures of the others as there are rows. If the projection scores as well, the model gains
    nothing from interactions.

    Source: Hessel and Lee, Does my multimodal model learn cross-modal interactions?, 2020.

    Args:
        rows: the maximum number of rows. The network runs on rows² × modalities combinations.
            Of streams, only rows with the most common number of steps are used, so that any two
            can be combined.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    chosen = _alike(examples, rows, generator)
    batch = {name: each.to(device) for name, each in examples.collate(chosen).items()}
    features = network.encode(batch)
    logits = answered(network, features, batch)
    projection = additive(network, features, batch, generator)
    score = metrics.main_score(config.model.problem_type)
    whole, additively = (_answers(config, each, batch) for each in (logits, projection))
    same = (whole.predicted == additively.predicted).double().mean()
    gain = metrics.difference(whole, additively, score, seed)
    return {
        "rows": len(chosen),
        "score": metrics.plain(metrics.value(whole, score)),
        "additive": metrics.plain(metrics.value(additively, score)),
        "gain": gain.to_json(),
        "same_answers": None
        if config.model.problem_type == "regression"
        else metrics.plain(float(same)),
    }


def answered(network: FusionNetwork, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Compute the logits from a batch's features, as the network's own forward does."""
    x, lengths, state = network.sequence(features, batch)
    return network.head(x, state, lengths=lengths)[0]


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
            total = total + answered(network, mixed, perturbations.pick(batch, picked, {})).double()
        held.append(total / rows)
    everything = torch.stack(held).mean(0).mean(0, keepdim=True)
    return torch.stack(held).sum(0) - (len(held) - 1) * everything


def _alike(examples: Examples, most: int, generator: torch.Generator) -> list[int]:
    """Choose random rows that can be recombined."""
    rows = torch.arange(len(examples))
    if examples.steps is not None:
        steps = torch.tensor(examples.steps)
        rows = (steps == steps.mode().values).nonzero()[:, 0]
    return rows[torch.randperm(len(rows), generator=generator)[:most]].tolist()


def _answers(config: RunConfig, logits: Tensor, batch: Batch) -> Answers:
    output, truth, row = items(config, logits, batch["label"].cpu())
    return Answers(
        config.model.problem_type, config.labels, output, truth, row, len(batch["label"])
    )


@torch.no_grad()
def swap_modalities(
    network: nn.Module, config: RunConfig, batch: Batch, seed: int = 0
) -> list[dict[str, Any]]:
    """Take each modality from another row, and measure whose prediction the model gives.

    Counts rows whose own prediction differs from the donor's: how often the prediction becomes the
    donor's, and how often it stays.
    """
    generator = torch.Generator().manual_seed(seed)
    giving = donors(batch, generator)
    host = said(config, network(batch))
    valid = _valid(batch, host)
    result = []
    for name in config.model.modalities:
        swapped = said(config, network(perturbations.donate(batch, name, giving)))
        result.append({"modality": name, **follow(config, host, host[giving], swapped, valid)})
    return result


@torch.no_grad()
def swap_state(
    network: FusionNetwork, config: RunConfig, batch: Batch, seed: int = 0
) -> dict[str, Any] | None:
    """Replace the state of the recurrent layer half-way, by another row's or by zeros.

    An LSTM's state is h and c.

    For steps, `after` gives for each step after the swap how often the prediction is what the donor
    predicted just before the swap. It counts rows whose own prediction differs, if both
    rows had a label by then. For other kinds, the one prediction of each row counts.

    Returns:
        None if no state is carried: a single step, or no recurrent layer.
    """
    if config.model.cell == "none":
        return None
    generator = torch.Generator().manual_seed(seed)
    x, lengths, start = network.sequence(network.encode(batch), batch)
    if lengths is None:
        lengths = torch.full((len(x),), x.shape[1], device=x.device)
    half = int(lengths.median()) // 2
    rows = (lengths > half).nonzero()[:, 0]
    if half < 1 or len(rows) < 2:
        return None
    x, left = x[rows], lengths[rows] - half
    start = start if start is None else mapped(lambda each: each[:, rows], start)
    _, state = network.head.rnn(x[:, :half], start)
    giving = torch.randperm(len(rows), generator=generator).to(x.device)
    giving[giving.clone()] = giving.roll(1)  # a cycle through all rows
    rest = x[:, half:]

    def resumed(state: State) -> Tensor:
        """[B, T - half, C], or [B, C] at the end."""
        return network.head(rest, state, lengths=left)[0]

    whole = resumed(state)
    swapped = resumed(mapped(lambda each: each[:, giving], state))
    erased = resumed(mapped(torch.zeros_like, state))
    host, other = said(config, whole), said(config, swapped)
    result: dict[str, Any] = {"step": half, "rows": len(rows)}
    if config.model.problem_type == "steps":
        asked = batch["label"][rows] != IGNORE
        memory = said(config, network.answer(h_of(state)[0]))[giving]
        result["after"] = []
        for number in range(host.shape[1]):
            valid = asked[:, half + number] & asked[:, half - 1] & asked[giving, half - 1]
            found = follow(config, host[:, number], memory, other[:, number], valid)
            result["after"].append({"steps": number + 1, **found})
    else:
        result |= follow(config, host, host[giving], other, torch.ones_like(rows, dtype=torch.bool))
    label = batch["label"][rows]
    if config.model.problem_type == "steps":
        label = label[:, half : half + host.shape[1]]
    score = metrics.main_score(config.model.problem_type)
    for name, logits in (("score", whole), ("score_erased", erased)):
        value = metrics.value(_answers(config, logits, {"label": label}), score)
        result[name] = metrics.plain(value)
    return result


def said(config: RunConfig, logits: Tensor) -> Tensor:
    """Return the prediction: the label index, [B] or [B, T]; multilabel [B, C]; else the value."""
    if config.model.problem_type == "regression":
        return logits[..., 0]
    return objectives.predict(config.model.problem_type, logits)


def follow(
    config: RunConfig, host: Tensor, donor: Tensor, swapped: Tensor, valid: Tensor
) -> dict[str, Any]:
    """Count how often the prediction follows the donor or the host, where the two differ.

    For a regression, the nearer value counts.

    Args:
        valid: bool, the predictions to count.
    """
    if valid.dim() < host.dim():
        valid = valid[..., None].expand_as(host)
    differ = (host != donor) & valid
    if config.model.problem_type == "regression":
        to_donor = (swapped - donor).abs() < (swapped - host).abs()
        to_host = ~to_donor
    else:
        to_donor, to_host = swapped == donor, swapped == host
    count = int(differ.sum())
    return {
        "differ": count,
        "donor": metrics.plain(to_donor[differ].double().mean()) if count else None,
        "host": metrics.plain(to_host[differ].double().mean()) if count else None,
    }


def _valid(batch: Batch, answers: Tensor) -> Tensor:
    """Return a bool mask of the valid predictions: all rows, or the steps that rows have."""
    if "steps" in batch and answers.shape[:2] == batch["steps"].shape:
        return batch["steps"]
    return torch.ones(len(answers), dtype=torch.bool, device=answers.device)
