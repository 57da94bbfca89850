"""Test the losses, predictions and scores of each kind of label against their definitions."""

from __future__ import annotations

import pytest
import torch

from fastrnn.fusion.config.schema import KINDS
from fastrnn.fusion.data.processor import IGNORE
from fastrnn.fusion.tasks import objectives

B, T, C = 6, 3, 4


def case(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random logits and labels."""
    width = objectives.outputs(kind, 2 if kind == "binary" else C)
    shape = (B, T, width) if kind == "steps" else (B, width)
    label = {
        "binary": torch.tensor([0, 1, 1, 0, 1, 1]),
        "multiclass": torch.tensor([0, 1, 2, 3, 3, 3]),
        "multilabel": (torch.rand(B, C) > 0.5).float(),
        "regression": torch.randn(B),
        "steps": torch.tensor([[0, 1, IGNORE], [2, IGNORE, IGNORE]] * 3),
    }[kind]
    return torch.randn(shape, requires_grad=True), label


@pytest.mark.parametrize("kind", KINDS)
def test_loss_matches_its_definition(kind):
    logits, label = case(kind)
    if kind == "regression":
        expected = ((logits[:, 0] - label) ** 2).mean()
    elif kind in ("binary", "multilabel"):
        target = label.reshape(logits.shape).float()
        right = torch.where(target > 0, logits.sigmoid(), 1 - logits.sigmoid())
        expected = -right.log().mean()
    else:
        scored = label != IGNORE
        log = logits.log_softmax(-1)[scored]
        expected = -log.gather(1, label[scored][:, None]).mean()
    torch.testing.assert_close(objectives.loss(kind, logits, label), expected)


@pytest.mark.parametrize("kind", ["multiclass", "steps"])
def test_label_weights_weight_their_rows(kind):
    logits, label = case(kind)
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5])
    scored = label != IGNORE
    share = weight[label[scored]]
    each = -logits.log_softmax(-1)[scored].gather(1, label[scored][:, None])[:, 0]
    expected = (share * each).sum() / share.sum()
    torch.testing.assert_close(objectives.loss(kind, logits, label, weight), expected)


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_weights_of_present_labels(kind):
    """A weight of 2 doubles the loss of each row that has the label."""
    logits, label = case(kind)
    weight = torch.full((logits.shape[1],), 2.0)
    target = label.reshape(logits.shape).float()
    each = -torch.where(target > 0, 2 * logits.sigmoid().log(), (-logits).sigmoid().log())
    torch.testing.assert_close(objectives.loss(kind, logits, label, weight), each.mean())


@pytest.mark.parametrize("weight", [None, torch.ones(C)])
def test_a_batch_without_labels_has_zero_loss_and_gradient(weight):
    logits, label = case("steps")
    loss = objectives.loss("steps", logits, torch.full_like(label, IGNORE), weight)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_probabilities_agree(kind):
    logits, label = case(kind)
    answer, likely = objectives.predict(kind, logits), objectives.probabilities(kind, logits)
    assert answer.shape == label.shape
    if kind == "regression":
        assert answer.equal(likely)
    elif kind in ("binary", "multilabel"):
        assert answer.equal((likely > 0.5).long())
        assert likely.shape == label.shape
    else:
        assert likely.argmax(-1).equal(answer)
        torch.testing.assert_close(likely.sum(-1), torch.ones(likely.shape[:-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_score_matches_its_definition(kind):
    logits, label = case(kind)
    metric = objectives.metric(kind, 2 if kind == "binary" else C)
    answer = objectives.predict(kind, logits).detach()
    for rows in (slice(0, 4), slice(4, 6)):  # over batches
        metric.update(answer[rows], label[rows])
    if kind == "regression":
        expected = 1 - ((answer - label) ** 2).sum() / ((label - label.mean()) ** 2).sum()
        assert objectives.SCORES[kind] == "r2"
    else:
        scored = label != IGNORE
        expected = (answer == label)[scored].float().mean()
        assert objectives.SCORES[kind] == "accuracy"
    torch.testing.assert_close(metric.compute(), expected)


def test_r2_of_one_row_is_nan():
    metric = objectives.metric("regression", 1)
    metric.update(torch.tensor([1.0]), torch.tensor([1.0]))
    assert metric.compute().isnan()
