"""Interventions on a trained network: does it combine modalities, and does its state remember?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import IGNORE, Batch
from ..evaluation import perturbations
from ..evaluation.bootstrap import value
from ..inference.loop import gather
from ..models.network import FusionNetwork, mix
from ..models.recurrent import State, h_of, mapped
from ..tasks import Task
from ..tasks.metrics import plain


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


@dataclass(frozen=True)
class Probe:
    """Swaps modalities and states between the rows of a batch.

    A swap counts where the prediction of a row, the host, differs from that of the row that gives,
    the donor: how often the new prediction is the donor's, and how often it stays the host's.
    """

    network: nn.Module
    task: Task
    seed: int = 0

    @torch.no_grad()
    def swap_modalities(self, modalities: Iterable[str], batch: Batch) -> list[dict[str, Any]]:
        """Take each modality from another row."""
        giving = donors(batch, torch.Generator().manual_seed(self.seed))
        host = self.task.predict(self.network(batch))
        valid = _valid(batch, host)
        result = []
        for name in modalities:
            logits = self.network(perturbations.donate(batch, name, giving))
            swapped = self.task.predict(logits)
            counts = self._follow(host, host[giving], swapped, valid)
            result.append({"modality": name, **counts})
        return result

    @torch.no_grad()
    def swap_state(self, batch: Batch) -> dict[str, Any] | None:
        """Replace the state of the recurrent layer half-way, by another row's or by zeros.

        An LSTM's state is h and c.

        For steps, `after` gives for each step after the swap how often the prediction is what the
        donor predicted just before the swap. It counts rows whose own prediction differs, if both
        rows had a label by then. For other tasks, the one prediction of each row counts.

        Returns:
            None if no state is carried: a single step, or no recurrent layer.
        """
        network = self.network
        if not isinstance(network, FusionNetwork) or network.config.cell == "none":
            return None
        features = network.encode(batch)
        x, lengths, start = network.sequence(features, batch)
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        half = int(lengths.median()) // 2
        rows = (lengths > half).nonzero()[:, 0]
        if half < 1 or len(rows) < 2:
            return None
        start = start if start is None else mapped(lambda each: each[:, rows], start)
        _, state = network.head.rnn(x[rows, :half], start)
        rest, left = x[rows, half:], lengths[rows] - half
        giving = _cycle(len(rows), self.seed).to(x.device)
        share, shares = network.mixture[0], network.mixture[1:]
        # The readouts of single inputs do not depend on the state.
        own = mix(shares, network.unimodal(features, batch)[:, rows])

        def resumed(state: State) -> Tensor:
            """[B, T - half, C], or [B, C] at the end."""
            fused = network.head(rest, state, lengths=left)[0]
            rest_of_own = own[:, half : half + fused.shape[1]] if self.task.per_step else own
            return share * fused + rest_of_own

        whole = resumed(state)
        swapped = resumed(mapped(lambda each: each[:, giving], state))
        erased = resumed(mapped(torch.zeros_like, state))
        host, other = self.task.predict(whole), self.task.predict(swapped)
        result: dict[str, Any] = {"step": half, "rows": len(rows)}
        label = batch["label"][rows]
        if self.task.per_step:
            before = share * network.answer(h_of(state)[0]) + own[:, half - 1]
            memory = self.task.predict(before)[giving]
            result["after"] = self._after(label, half, host, memory, other, giving)
            label = label[:, half : half + host.shape[1]]
        else:
            result |= self._follow(host, host[giving], other, _everywhere(rows))
        for name, logits in (("score", whole), ("score_erased", erased)):
            found = gather(self.task, [self.task.items(logits, label.cpu())], len(rows))
            result[name] = plain(value(found, self.task.score_name))
        return result

    def _after(
        self, label: Tensor, half: int, host: Tensor, memory: Tensor, other: Tensor, giving: Tensor
    ) -> list[dict[str, Any]]:
        """Count for each step after the swap how often the prediction is the donor's memory."""
        asked = label != IGNORE
        result = []
        for number in range(host.shape[1]):
            valid = asked[:, half + number] & asked[:, half - 1] & asked[giving, half - 1]
            found = self._follow(host[:, number], memory, other[:, number], valid)
            result.append({"steps": number + 1, **found})
        return result

    def _follow(
        self, host: Tensor, donor: Tensor, swapped: Tensor, valid: Tensor
    ) -> dict[str, Any]:
        """Count how often the prediction follows the donor or the host, where the two differ.

        Args:
            valid: bool, the predictions to count.
        """
        if valid.dim() < host.dim():
            valid = valid[..., None].expand_as(host)
        differ = (host != donor) & valid
        to_donor = self.task.matches(swapped, donor, host)
        to_host = self.task.matches(swapped, host, donor)
        count = int(differ.sum())
        return {
            "differ": count,
            "donor": plain(to_donor[differ].double().mean()) if count else None,
            "host": plain(to_host[differ].double().mean()) if count else None,
        }


def _cycle(rows: int, seed: int) -> Tensor:
    """Return a random cycle through all rows: the donor of each, int64 [B]."""
    giving = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    giving[giving.clone()] = giving.roll(1)
    return giving


def _everywhere(rows: Tensor) -> Tensor:
    return torch.ones_like(rows, dtype=torch.bool)


def _valid(batch: Batch, answers: Tensor) -> Tensor:
    """Return a bool mask of the valid predictions: all rows, or the steps that rows have."""
    if "steps" in batch and answers.shape[:2] == batch["steps"].shape:
        return batch["steps"]
    return torch.ones(len(answers), dtype=torch.bool, device=answers.device)
