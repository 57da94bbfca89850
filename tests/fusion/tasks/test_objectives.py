"""Test the losses, predictions and scores of each problem type against their definitions."""

from __future__ import annotations

import pytest
import torch

from fastrnn.fusion.config.schema import PROBLEM_TYPES
from fastrnn.fusion.data.processor import IGNORE
from fastrnn.fusion.tasks import objectives

B, T, C = 6, 3, 4


def case(problem_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random logits and labels."""
    width = objectives.outputs(problem_type, 2 if problem_type == "binary" else C)
    shape = (B, T, width) if problem_type == "steps" else (B, width)
    label = {
        "binary": torch.tensor([0, 1, 1, 0, 1, 1]),
        "multiclass": torch.tensor([0, 1, 2, 3, 3, 3]),
        "multilabel": (torch.rand(B, C) > 0.5).float(),
        "regression": torch.randn(B),
        "steps": torch.tensor([[0, 1, IGNORE], [2, IGNORE, IGNORE]] * 3),
    }[problem_type]
    return torch.randn(shape, requires_grad=True), label


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_loss_matches_its_definition(problem_type):
    logits, label = case(problem_type)
    if problem_type == "regression":
        expected = ((logits[:, 0] - label) ** 2).mean()
    elif problem_type in ("binary", "multilabel"):
        target = label.reshape(logits.shape).float()
        right = torch.where(target > 0, logits.sigmoid(), 1 - logits.sigmoid())
        expected = -right.log().mean()
    else:
        scored = label != IGNORE
        log = logits.log_softmax(-1)[scored]
        expected = -log.gather(1, label[scored][:, None]).mean()
    torch.testing.assert_close(objectives.loss(problem_type, logits, label), expected)


@pytest.mark.parametrize("problem_type", ["multiclass", "steps"])
def test_label_weights_weight_their_rows(problem_type):
    logits, label = case(problem_type)
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5])
    scored = label != IGNORE
    share = weight[label[scored]]
    each = -logits.log_softmax(-1)[scored].gather(1, label[scored][:, None])[:, 0]
    expected = (share * each).sum() / share.sum()
    torch.testing.assert_close(objectives.loss(problem_type, logits, label, weight), expected)


@pytest.mark.parametrize("problem_type", ["binary", "multilabel"])
def test_weights_of_present_labels(problem_type):
    """A weight of 2 doubles the loss of each row that has the label."""
    logits, label = case(problem_type)
    weight = torch.full((logits.shape[1],), 2.0)
    target = label.reshape(logits.shape).float()
    each = -torch.where(target > 0, 2 * logits.sigmoid().log(), (-logits).sigmoid().log())
    torch.testing.assert_close(objectives.loss(problem_type, logits, label, weight), each.mean())


@pytest.mark.parametrize("weight", [None, torch.ones(C)])
def test_a_batch_without_labels_has_zero_loss_and_gradient(weight):
    logits, label = case("steps")
    loss = objectives.loss("steps", logits, torch.full_like(label, IGNORE), weight)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_predictions_and_probabilities_agree(problem_type):
    logits, label = case(problem_type)
    answer, likely = (
        objectives.predict(problem_type, logits),
        objectives.probabilities(problem_type, logits),
    )
    assert answer.shape == label.shape
    if problem_type == "regression":
        assert answer.equal(likely)
    elif problem_type in ("binary", "multilabel"):
        assert answer.equal((likely > 0.5).long())
        assert likely.shape == label.shape
    else:
        assert likely.argmax(-1).equal(answer)
        torch.testing.assert_close(likely.sum(-1), torch.ones(likely.shape[:-1]))


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_score_matches_its_definition(problem_type):
    logits, label = case(problem_type)
    metric = objectives.metric(problem_type, 2 if problem_type == "binary" else C)
    answer = objectives.predict(problem_type, logits).detach()
    for rows in (slice(0, 4), slice(4, 6)):  # over batches
        metric.update(answer[rows], label[rows])
    if problem_type == "regression":
        expected = 1 - ((answer - label) ** 2).sum() / ((label - label.mean()) ** 2).sum()
        assert objectives.SCORES[problem_type] == "r2"
    else:
        scored = label != IGNORE
        expected = (answer == label)[scored].float().mean()
        assert objectives.SCORES[problem_type] == "accuracy"
    torch.testing.assert_close(metric.compute(), expected)


def test_r2_of_one_row_is_nan():
    metric = objectives.metric("regression", 1)
    metric.update(torch.tensor([1.0]), torch.tensor([1.0]))
    assert metric.compute().isnan()
