"""Test the scores of a pass over rows, for any division into batches and processes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from fastrnn.fusion.batch import IGNORE
from fastrnn.fusion.config.schema import PROBLEM_TYPES
from fastrnn.fusion.training.meter import Meter, Score

from ..synthetic import LABELS, task

B, T = 7, 3


class Processes:
    """Stands for accelerate's Accelerator; `others` are the sums of the other processes."""

    def __init__(self, *others: torch.Tensor) -> None:
        self.others = others

    def reduce(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "sum"
        return torch.stack([tensor, *self.others]).sum(0)


def case(problem_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = task(problem_type).num_outputs
    logits = torch.randn(B, T, outputs) if problem_type == "steps" else torch.randn(B, outputs)
    label = {
        "binary": torch.arange(B) % 2,
        "multiclass": torch.arange(B) % LABELS,
        "multilabel": torch.rand(B, LABELS).round(),
        "regression": torch.randn(B),
        "steps": torch.arange(B * T).view(B, T) % LABELS,
    }[problem_type]
    if problem_type == "steps":
        label[::2, 0] = IGNORE
    return logits, label


def filled(problem_type: str, bounds: list[int]) -> Meter:
    """Return a meter with the batches of rows between the bounds."""
    given = task(problem_type)
    torch.manual_seed(0)
    logits, label = case(problem_type)
    meter = Meter(given)
    for first, end in pairwise(bounds):
        part = logits[first:end], label[first:end]
        meter.add(given.loss(*part), float(given.masses(part[1]).sum()), *part)
    return meter


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_the_score_does_not_depend_on_batches_and_processes(problem_type):
    given = task(problem_type)
    torch.manual_seed(0)
    logits, label = case(problem_type)
    whole = filled(problem_type, [0, B]).score(Processes())
    assert whole.loss == pytest.approx(float(given.loss(logits, label)), rel=1e-6)
    assert whole.score == pytest.approx(given.score(given.statistics(logits, label)))
    several = filled(problem_type, [0, 1, 4, B]).score(Processes())
    two = filled(problem_type, [0, 3]).score(Processes(filled(problem_type, [3, 5, B]).sums))
    for each in (several, two):
        assert each.loss == pytest.approx(whole.loss, rel=1e-6)  # float32 losses
        assert each.score == pytest.approx(whole.score, rel=1e-6)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_a_process_without_rows_adds_nothing(problem_type):
    given = task(problem_type)
    logits, label = case(problem_type)
    idle = Meter(given)
    idle.add(logits.sum() * 0, 0.0, logits[:0], label[:0])
    assert not idle.sums.any()
    whole = filled(problem_type, [0, B])
    assert whole.score(Processes(idle.sums)) == whole.score(Processes())
    assert math.isnan(idle.score(Processes()).loss)
    assert math.isnan(idle.score(Processes()).score)


def test_a_meter_does_not_keep_the_graph():
    given = task("binary")
    weight = torch.ones(1, requires_grad=True)
    logits, label = torch.randn(4, 1) * weight, torch.tensor([0, 1, 1, 0])
    meter = Meter(given)
    meter.add(given.loss(logits, label), 4.0, logits.detach(), label)
    assert not meter.sums.requires_grad
    assert meter.sums.dtype == torch.float64


def test_a_meter_without_a_batch_has_no_score():
    with pytest.raises(ValueError, match="no batch"):
        Meter(task("binary")).score(Processes())


def test_the_higher_score_is_better_and_then_the_lower_loss():
    nan = float("nan")
    ranked = [Score(nan, nan), Score(1.0, nan), Score(nan, 0.5), Score(9.0, 0.5), Score(1.0, 0.5)]
    ranked.append(Score(9.0, 0.6))
    for worse, better in pairwise(ranked):
        assert better.better(worse)
        assert not worse.better(better)
        assert not better.better(better)
    assert Score(nan, nan).better(None)
