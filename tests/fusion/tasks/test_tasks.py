"""Test every task against independent definitions, and against torchmetrics."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from torchmetrics.functional import classification as tmc

from fastrnn.fusion import ConfigError, ManifestError
from fastrnn.fusion.batch import IGNORE
from fastrnn.fusion.config.schema import PROBLEM_TYPES
from fastrnn.fusion.tasks import TASKS, Predictions, Task, task_of

B, T, C = 6, 3, 4
NAMES = ("a", "b", "c", "d")
TOLERANCE = 1e-5  # torchmetrics computes in float32


def task(problem_type: str) -> Task:
    if problem_type == "regression":
        return task_of(problem_type)(scale=(10.0, 2.0))
    return task_of(problem_type)(NAMES[:2] if problem_type == "binary" else NAMES)


def case(problem_type: str) -> tuple[Task, torch.Tensor, torch.Tensor]:
    """Return a task, random logits and labels."""
    given = task(problem_type)
    width = given.num_outputs
    shape = (B, T, width) if problem_type == "steps" else (B, width)
    label = {
        "binary": torch.tensor([0, 1, 1, 0, 1, 1]),
        "multiclass": torch.tensor([0, 1, 2, 3, 3, 3]),
        "multilabel": (torch.rand(B, C) > 0.5).float(),
        "regression": torch.randn(B),
        "steps": torch.tensor([[0, 1, IGNORE], [2, IGNORE, IGNORE], [IGNORE, 3, 3]] * 2),
    }[problem_type]
    return given, torch.randn(shape, requires_grad=True), label


def test_every_problem_type_has_a_task():
    assert set(TASKS) == set(PROBLEM_TYPES)
    assert [task_of(each).problem_type for each in PROBLEM_TYPES] == list(PROBLEM_TYPES)
    with pytest.raises(ConfigError, match="problem_type must be one of binary, multiclass"):
        task_of("ranking")


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_loss_matches_its_definition(problem_type):
    given, logits, label = case(problem_type)
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
    torch.testing.assert_close(given.loss(logits, label), expected)


@pytest.mark.parametrize("problem_type", ["multiclass", "steps"])
def test_label_weights_weight_their_rows(problem_type):
    given, logits, label = case(problem_type)
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5])
    scored = label != IGNORE
    share = weight[label[scored]]
    each = -logits.log_softmax(-1)[scored].gather(1, label[scored][:, None])[:, 0]
    expected = (share * each).sum() / share.sum()
    torch.testing.assert_close(given.loss(logits, label, weight), expected)


@pytest.mark.parametrize("problem_type", ["binary", "multilabel"])
def test_weights_of_present_labels(problem_type):
    """A weight of 2 doubles the loss of each row that has the label."""
    given, logits, label = case(problem_type)
    weight = torch.full((logits.shape[1],), 2.0)
    target = label.reshape(logits.shape).float()
    each = -torch.where(target > 0, 2 * logits.sigmoid().log(), (-logits).sigmoid().log())
    torch.testing.assert_close(given.loss(logits, label, weight), each.mean())


@pytest.mark.parametrize("weight", [None, torch.ones(C)])
def test_a_batch_without_labels_has_zero_loss_and_gradient(weight):
    given, logits, label = case("steps")
    loss = given.loss(logits, torch.full_like(label, IGNORE), weight)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_the_loss_is_the_mean_of_its_parts_weighted_by_their_masses(problem_type, weighted):
    given, logits, label = case(problem_type)
    logits = logits.detach().double()
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5])[: given.num_outputs] if weighted else None
    masses = given.masses(label, weight)
    assert masses.dtype == torch.float64
    assert masses.shape == (B,)
    weight = None if weight is None else weight.double()
    total = sum(
        masses[first:end].sum() * given.loss(logits[first:end], label[first:end], weight)
        for first, end in pairwise((0, 1, 3, B))
    )
    torch.testing.assert_close(total / masses.sum(), given.loss(logits, label, weight))


def test_masses():
    label = torch.tensor([[0, IGNORE, IGNORE], [0, 0, 1], [IGNORE, IGNORE, IGNORE]])
    assert task("steps").masses(label).tolist() == [1, 3, 0]
    weight = torch.tensor([0.5, 2.0, 1.0, 1.0])
    assert task("steps").masses(label, weight).tolist() == [0.5, 3, 0]
    assert task("multiclass").masses(torch.tensor([1, 0, 1]), weight).tolist() == [2, 0.5, 2]
    assert task("binary").masses(torch.tensor([1, 0]), torch.tensor([3.0])).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("problem_type", "label", "expected"),
    [
        ("binary", torch.tensor([0, 0, 0, 1]), [3.0]),
        ("binary", torch.tensor([0, 0]), [2.0]),  # an absent label counts once
        ("multiclass", torch.tensor([0, 1, 1, 2, 2, 2, 3, 3]), [2, 1, 2 / 3, 1]),
        ("steps", torch.tensor([[0, IGNORE], [1, 1], [2, 3]]), [5 / 4, 5 / 8, 5 / 4, 5 / 4]),
        (
            "multilabel",
            torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]),
            [1 / 3, 2, 0.5, 3],  # a label that all rows have is learned, too
        ),
    ],
)
def test_balance(problem_type, label, expected):
    assert task(problem_type).balance(label).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("problem_type", ["multiclass", "steps"])
def test_balanced_labels_have_equal_masses(problem_type):
    given, _, label = case(problem_type)
    flat = label[label != IGNORE]
    weight = given.balance(label).double()[flat]
    masses = torch.zeros(C, dtype=torch.float64).index_add(0, flat, weight)
    assert masses.tolist() == pytest.approx([len(flat) / C] * C)


def test_a_regression_has_no_balance():
    with pytest.raises(ConfigError, match="balance does not apply to regression; omit it"):
        task("regression").balance(torch.randn(3))


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_predictions_and_probabilities_agree(problem_type):
    given, logits, label = case(problem_type)
    answer, likely = given.predict(logits), given.probabilities(logits)
    assert answer.shape == label.shape
    output = given.output(logits)
    assert output.dtype == torch.float64
    if problem_type == "regression":
        assert answer.equal(likely)
        torch.testing.assert_close(output, 10 + 2 * answer.double())
        return
    torch.testing.assert_close(output.float(), likely)
    assert given.choose(output).equal(answer)
    if problem_type in ("binary", "multilabel"):
        assert answer.equal((likely > 0.5).long())
        assert likely.shape == label.shape
        assert given.choose(output, 0.99).sum() < answer.sum()
    else:
        assert likely.argmax(-1).equal(answer)
        torch.testing.assert_close(likely.sum(-1), torch.ones(likely.shape[:-1]))


def metric(given: Task, answer: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Compute the score of predictions with torchmetrics."""
    if given.problem_type == "regression":
        return tm.r2_score(answer, label)
    if given.problem_type == "multilabel":
        return tmc.multilabel_accuracy(answer, label.long(), C, average="micro")
    return tmc.multiclass_accuracy(answer, label, C, average="micro", ignore_index=IGNORE)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_score_matches_its_definition(problem_type):
    """The statistics of parts add up to those of the whole."""
    given, logits, label = case(problem_type)
    answer = given.predict(logits).detach()
    parts = [
        given.statistics(logits[first:end].detach(), label[first:end])
        for first, end in pairwise((0, 1, 4, B, B))
    ]
    found = given.score(torch.stack([each.double() for each in parts]).sum(0))
    assert found == pytest.approx(given.score(given.statistics(logits.detach(), label)))
    if problem_type == "regression":
        expected = 1 - ((answer - label) ** 2).sum() / ((label - label.mean()) ** 2).sum()
        assert given.score_name == "r2"
    else:
        scored = label != IGNORE
        expected = (answer == label)[scored].double().mean()
        assert given.score_name == "accuracy"
    assert found == pytest.approx(float(expected), abs=TOLERANCE)
    assert found == pytest.approx(float(metric(given, answer, label)), abs=TOLERANCE)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_the_score_equals_the_metric_of_an_evaluation(problem_type):
    given, logits, label = case(problem_type)
    logits = logits.detach()
    found = Predictions(given, *given.items(logits, label), rows=B)
    weights = torch.ones(1, len(found.truth), dtype=torch.float64)
    score = given.metrics(found, weights)[given.score_name]
    assert given.score(given.statistics(logits, label)) == pytest.approx(float(score))


def test_undefined_scores_are_nan():
    for problem_type in PROBLEM_TYPES:
        given, logits, label = case(problem_type)
        logits = logits.detach()
        assert math.isnan(given.score(given.statistics(logits[:0], label[:0])))
    given, logits, label = case("regression")
    assert math.isnan(given.score(given.statistics(logits[:1].detach(), label[:1])))
    same = torch.ones(B)
    assert math.isnan(given.score(given.statistics(logits.detach(), same)))


def test_items_of_steps_are_the_labelled_ones():
    given, logits, label = case("steps")
    output, truth, row = given.items(logits.detach(), label)
    assert truth.tolist() == [0, 1, 2, 3, 3] * 2
    assert row.tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 5, 5]
    expected = [logits[r, s].softmax(-1) for r, s in (label != IGNORE).nonzero().tolist()]
    torch.testing.assert_close(output.float(), torch.stack(expected))


@pytest.mark.parametrize(
    ("problem_type", "labels", "cells", "encoded"),
    [
        ("binary", ["yes", "no"], ["yes", "no"], [1, 0]),
        ("multiclass", ["10", "9", "x2"], ["10", "x2"], [0, 2]),
        ("multiclass", ["10", "9", "8"], ["10", "8"], [2, 0]),  # numbers are sorted as such
        ("multilabel", [("b", "a"), ()], [("b",), (), ("b", "a")], [[0, 1], [0, 0], [1, 1]]),
        ("steps", [("x", None), ("y",)], [("y", None, "x")], [[1, IGNORE, 0]]),
        ("regression", ["1", "3"], ["1", "3", "6"], [-1, 1, 4]),
    ],
)
def test_labels_are_learned_and_encoded(problem_type, labels, cells, encoded):
    given = task_of(problem_type).fit(labels)
    found = [given.encode(each) for each in cells]
    assert [np.asarray(each).tolist() for each in found] == encoded
    kind = np.float32 if problem_type in ("multilabel", "regression") else np.int64
    assert {np.asarray(each).dtype for each in found} == {np.dtype(kind)}
    if problem_type != "regression":
        with pytest.raises(ManifestError, match="the label 'q' was not in training"):
            given.encode("q" if isinstance(cells[0], str) else ("q",))


@pytest.mark.parametrize(
    ("problem_type", "labels", "said"),
    [
        ("binary", ["a", "b", "c"], "there are 3 labels .*choose problem type multiclass"),
        ("multiclass", ["a", "a"], r"have only one label \(a\); give at least two"),
        ("steps", [("a", None)], r"have only one label \(a\); give at least two"),
        ("multilabel", [(), ()], "give at least"),
        ("regression", ["2", "2.0"], "the same label value; give at least two different"),
    ],
)
def test_labels_that_cannot_be_learned(problem_type, labels, said):
    with pytest.raises(ManifestError, match=said):
        task_of(problem_type).fit(labels)


def test_predictions_are_decoded_to_labels():
    """The record has a field for every Arrow field of the task."""
    output = {
        "binary": torch.tensor(0.75),
        "multiclass": torch.tensor([0.1, 0.2, 0.6, 0.1]),
        "multilabel": torch.tensor([0.9, 0.2, 0.6, 0.1]),
        "regression": torch.tensor(12.5),
        "steps": torch.tensor([[0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1]]),
    }
    expected = {
        "binary": "b",
        "multiclass": "c",
        "multilabel": ["a", "c"],
        "regression": 12.5,
        "steps": ["c", "a"],
    }
    for problem_type, value in output.items():
        given = task(problem_type)
        record = given.decode(value)
        assert list(record) == [name for name, _ in given.fields()]
        assert next(iter(record.values())) == expected[problem_type]
        if problem_type in ("multiclass", "multilabel"):
            chances = dict(zip(NAMES, value.tolist(), strict=True))
            assert record["probabilities"] == pytest.approx(chances)
    assert task("binary").decode(output["binary"])["probabilities"] == {"a": 0.25, "b": 0.75}
    assert task("binary").decode(output["binary"], threshold=0.8)["label"] == "a"
    assert task("multilabel").decode(output["multilabel"], threshold=0.8)["label"] == ["a"]


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_the_explained_logit_is_that_of_the_answer(problem_type):
    given, logits, label = case(problem_type)
    for row in range(B):
        own = logits.detach()[row : row + 1]
        found = given.explained(own, label[row : row + 1])
        logit, said = found.logit(own), found.description
        if problem_type == "regression":
            assert logit == own[0, 0]
            assert float(said["answer"]) == pytest.approx(10 + 2 * float(logit), rel=1e-3)
        elif problem_type == "binary":
            assert logit == own[0, 0].abs()
            assert said["answer"] == NAMES[int(given.predict(own))]
            assert said["probability"] == pytest.approx(float(logit.sigmoid()), rel=1e-5)
        elif problem_type == "multilabel":
            assert logit == own[0].max()
            assert said["explained"] == NAMES[int(own[0].argmax())]
        else:
            if problem_type == "steps":
                step = int((label[row] != IGNORE).nonzero()[-1])  # the last with a label
                assert said["step"] == step + 1
                own = own[:, step]
            assert logit == own[0].max()
            assert said["answer"] == NAMES[int(own[0].argmax())]
