"""Scores against torchmetrics, their intervals and differences, and the curves of predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchmetrics.functional as tm
from torchmetrics.functional import classification as tmc

from fastrnn.fusion.batch import IGNORE
from fastrnn.fusion.evaluation import bootstrap
from fastrnn.fusion.evaluation.bootstrap import difference, intervals, scores, value
from fastrnn.fusion.tasks import Predictions, curves, task_of
from fastrnn.fusion.tasks.metrics import plain

ROWS = 300


def predicted(
    problem_type: str, seed: int = 0, classes: int = 4, skill: float = 1.0
) -> Predictions:
    """Random labels, and predictions better than chance; many probabilities are tied."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(ROWS)
    if problem_type == "steps":
        row = torch.randint(ROWS, (2 * ROWS,), generator=generator).sort().values
    items = len(row)
    noise = torch.randn(items, classes, generator=generator, dtype=torch.float64)
    if problem_type == "regression":
        truth = 3 + 2 * noise[:, 0]
        output = truth + noise[:, 1]
    elif problem_type == "multilabel":
        truth = (noise + 0.3 * torch.arange(classes) < 0.4).long()
        other = torch.randn(noise.shape, generator=generator, dtype=torch.float64)
        output = (skill * (2 * truth - 1) + other).sigmoid().mul(20).round() / 20
    elif problem_type == "binary":
        truth = (noise[:, 0] > 0.6).long()
        output = (skill * (2 * truth - 1) + noise[:, 1]).sigmoid().mul(20).round() / 20
    else:
        truth = noise[:, :2].sum(1).mul(1.2).round().long().clamp(0, classes - 1)
        known = torch.nn.functional.one_hot(truth, classes)
        output = (skill * known + noise.flip(1)).softmax(1)
    labels = {"binary": ("no", "yes"), "regression": ()}.get(
        problem_type, tuple("abcdefgh"[:classes])
    )
    return Predictions(task_of(problem_type)(labels), output, truth, row, ROWS)


def ones(given: Predictions) -> torch.Tensor:
    return torch.ones(1, given.rows, dtype=torch.float64)


def expected(given: Predictions) -> dict[str, torch.Tensor]:
    output, truth = given.output, given.truth
    if given.task.problem_type == "regression":
        return {
            "r2": tm.r2_score(output, truth),
            "mae": tm.mean_absolute_error(output, truth),
            "rmse": tm.mean_squared_error(output, truth, squared=False),
        }
    classes = len(given.task.labels)
    if given.task.problem_type == "binary":
        return {
            "accuracy": tmc.binary_accuracy(output, truth),
            "balanced_accuracy": tmc.multiclass_accuracy(
                (output > 0.5).long(), truth, 2, average="macro"
            ),
            "f1": tmc.binary_f1_score(output, truth),
            "auroc": tmc.binary_auroc(output, truth),
            "log_loss": torch.nn.functional.binary_cross_entropy(
                output.clamp(1e-12, 1 - 1e-12), truth.double()
            ),
        }
    if given.task.problem_type == "multilabel":
        return {
            "accuracy": tmc.multilabel_accuracy(output, truth, classes, average="micro"),
            "exact_match": tmc.multilabel_exact_match(output, truth, classes),
            "f1": tmc.multilabel_f1_score(output, truth, classes),
            "f1_micro": tmc.multilabel_f1_score(output, truth, classes, average="micro"),
            "auroc": tmc.multilabel_auroc(output, truth, classes),
        }
    return {
        "accuracy": tmc.multiclass_accuracy(output, truth, classes, average="micro"),
        "balanced_accuracy": tmc.multiclass_accuracy(output, truth, classes, average="macro"),
        "f1": tmc.multiclass_f1_score(output, truth, classes, average="macro"),
        "auroc": tmc.multiclass_auroc(output, truth, classes),
        "log_loss": torch.nn.functional.nll_loss(output.log(), truth),
    }


@pytest.mark.parametrize(
    "problem_type", ["binary", "multiclass", "steps", "multilabel", "regression"]
)
def test_scores_match_torchmetrics(problem_type):
    given = predicted(problem_type)
    ours, theirs = scores(given, ones(given)), expected(given)
    assert ours.keys() == theirs.keys()
    for name, score in theirs.items():
        # torchmetrics rounds some to float32
        assert float(ours[name]) == pytest.approx(float(score), abs=1e-6), name


@pytest.mark.parametrize(
    "problem_type", ["binary", "multiclass", "steps", "multilabel", "regression"]
)
def test_weights_equal_repeated_rows(problem_type):
    given = predicted(problem_type)
    counts = torch.randint(0, 4, (ROWS,))
    drawn = torch.repeat_interleave(torch.arange(len(given.row)), counts[given.row])
    again = replace(given, output=given.output[drawn], truth=given.truth[drawn])
    again = replace(again, row=given.row[drawn])
    weighted = scores(given, counts.double()[None])
    for name, score in scores(again, ones(given)).items():
        torch.testing.assert_close(weighted[name], score)


def test_undefined_scores_are_nan_and_null():
    given = predicted("binary")
    given = replace(given, truth=torch.zeros_like(given.truth))
    found = intervals(given)
    assert found["accuracy"].value > 0
    assert found["auroc"].to_json() == {"value": None, "low": None, "high": None}


def test_intervals_match_theory():
    """The accuracy of N independent rows is within 1.96 sqrt(p (1 - p) / N) 95% of the time."""
    given = predicted("binary")
    found = intervals(given)["accuracy"]
    half = 1.96 * (found.value * (1 - found.value) / ROWS) ** 0.5
    # 500 draws place each bound within about a tenth of the half-width
    assert found.high - found.value == pytest.approx(half, rel=0.25)
    assert found.value - found.low == pytest.approx(half, rel=0.25)
    assert found == intervals(given)["accuracy"]
    assert found != intervals(given, seed=1)["accuracy"]


def test_steps_of_a_row_are_resampled_together():
    """Repeating every row's item ten times does not narrow the interval."""
    once = predicted("multiclass")
    many = Predictions(
        task_of("steps")(once.task.labels),
        once.output.repeat_interleave(10, 0),
        once.truth.repeat_interleave(10),
        once.row.repeat_interleave(10),
        ROWS,
    )
    one, other = (intervals(each)["accuracy"] for each in (once, many))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_resamples_fit_into_a_block_of_memory(monkeypatch):
    many = predicted("steps")
    expected = intervals(many)
    monkeypatch.setattr(bootstrap, "_BLOCK", 60 * len(many.row) + 1)
    seen = []

    def score(weights):
        seen.append(weights[:, many.row].numel())
        return bootstrap.scores(many, weights)

    drawn = bootstrap.resample(score, many, 0)
    assert max(seen) <= bootstrap._BLOCK
    assert sum(seen) == bootstrap.RESAMPLES * len(many.row)
    for name, values in drawn.items():
        found = bootstrap.interval(expected[name].value, values)
        assert (found.low, found.high) == pytest.approx((expected[name].low, expected[name].high))


def test_paired_difference_is_narrower_than_an_interval():
    one = predicted("binary", skill=1.0)
    other = replace(one, output=one.output.clone())
    certain = (one.output - 0.5).abs() > 0.01
    wrong = ((one.predicted == one.truth) & certain).nonzero()[:15, 0]
    other.output[wrong] = 1 - other.output[wrong]
    gain = difference(one, other, "accuracy")
    assert gain.value == pytest.approx(15 / ROWS)
    assert gain.low > 0
    alone = intervals(one)["accuracy"]
    assert gain.high - gain.low < alone.high - alone.low


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_optimal(seed):
    given = predicted("binary", seed)
    chosen = curves.threshold(given.output, given.truth)
    tried = [*torch.linspace(-0.01, 1.01, 409).tolist(), chosen]
    found = {each: float(scores(given, ones(given), each)["balanced_accuracy"]) for each in tried}
    assert found[chosen] == max(found.values())


def test_threshold_defaults_to_half():
    given = predicted("binary")
    one_label = replace(given, truth=torch.ones_like(given.truth))
    assert curves.threshold(one_label.output, one_label.truth) == 0.5
    perfect = replace(given, output=given.truth * 0.4 + 0.3)
    assert curves.threshold(perfect.output, perfect.truth) == 0.5


@pytest.mark.parametrize("problem_type", ["binary", "multiclass"])
def test_calibration_matches_torchmetrics(problem_type):
    given = predicted(problem_type)
    found = given.task.details(given)["calibration"]
    if problem_type == "multiclass":
        theirs = tmc.multiclass_calibration_error(given.output, given.truth, 4, n_bins=10)
        assert found["ece"] == pytest.approx(float(theirs), abs=1e-5)
    assert sum(each["items"] for each in found["bins"]) == ROWS
    if problem_type == "binary":
        perfect = replace(given, output=given.truth.double())
        assert perfect.task.details(perfect)["calibration"]["ece"] == 0


def test_confusion():
    given = predicted("multiclass")
    theirs = tmc.multiclass_confusion_matrix(given.output, given.truth, 4)
    assert given.task.details(given)["confusion"] == theirs.tolist()
    many = predicted("multilabel")
    theirs = tmc.multilabel_confusion_matrix(many.output, many.truth, 4)
    found = torch.tensor(many.task.details(many)["confusion"])
    assert found.view(4, 2, 2).tolist() == theirs.tolist()


def test_regression_is_in_label_units():
    task = task_of("regression")(scale=(10.0, 4.0))
    output, truth, row = task.items(torch.tensor([[1.0], [0.0]]), torch.tensor([0.5, -1]))
    assert output.tolist() == [14, 10]
    assert truth.tolist() == [12, 6]
    assert row.tolist() == [0, 1]


def test_r2_of_nearly_equal_values():
    truth = 1.7e9 + 50 * (torch.arange(200).double() % 2) + torch.arange(200) % 5
    output, rows = truth + 25 * torch.sin(torch.arange(200).double()), torch.arange(200)
    near, far = (
        Predictions(task_of("regression")(), output - offset, truth - offset, rows, 200)
        for offset in (1.7e9, 0)
    )
    expected = tm.r2_score(near.output, near.truth)
    assert value(far, "r2") == pytest.approx(float(expected), abs=1e-9)
    # The resamples too, to the precision of float64 at 1.7e9 with a standard deviation of 25.
    both = [intervals(each)["r2"] for each in (near, far)]
    assert both[0].low == pytest.approx(both[1].low, abs=1e-6)
    assert both[0].high == pytest.approx(both[1].high, abs=1e-6)


def test_r2_of_equal_values_is_undefined():
    truth = torch.tensor([0.1, 0.2, 0.7, 0.7, 0.7], dtype=torch.float64)
    rows = torch.arange(5)
    given = Predictions(task_of("regression")(), truth + 0.01 * (rows - 2), truth, rows, 5)
    found = scores(given, torch.eye(5, dtype=torch.float64) * 7)  # each row, drawn seven times
    assert found["r2"].isnan().all()
    assert intervals(given)["r2"].low > -1


def test_small_scores_keep_significant_digits():
    assert plain(1.23456789e-9) == 1.23457e-09
    assert plain(0.123456789) == 0.123457
    assert plain(1234.123456789) == 1234.123457
    assert plain(float("nan")) is None


def test_only_steps_with_a_label_count():
    task = task_of("steps")(("a", "b", "c"))
    label = torch.tensor([[IGNORE, 1, 0], [2, IGNORE, IGNORE]])
    output, truth, row = task.items(torch.zeros(2, 3, 3), label)
    assert truth.tolist() == [1, 0, 2]
    assert row.tolist() == [0, 0, 1]
    assert output.shape == (3, 3)
