"""Scores against torchmetrics, intervals, perturbed batches, and the evaluation of a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torchmetrics.functional as tm
from fastrnn.fusion.evaluation.metrics import Answers
from torchmetrics.functional import classification as tmc

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    read_manifest,
)
from fastrnn.fusion.data.processor import IGNORE
from fastrnn.fusion.evaluation import evaluator as evaluation
from fastrnn.fusion.evaluation import metrics, perturbations

from ..trained import trained_run

ROWS = 300


def answers(problem_type: str, seed: int = 0, classes: int = 4, skill: float = 1.0) -> Answers:
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
    labels = (
        tuple("abcdefgh"[:classes])
        if problem_type not in ("binary", "regression")
        else ("no", "yes")
    )
    return Answers(problem_type, labels, output, truth, row, ROWS)


def ones(given: Answers) -> torch.Tensor:
    return torch.ones(1, given.rows, dtype=torch.float64)


def expected(given: Answers) -> dict[str, torch.Tensor]:
    output, truth = given.output, given.truth
    if given.problem_type == "regression":
        return {
            "r2": tm.r2_score(output, truth),
            "mae": tm.mean_absolute_error(output, truth),
            "rmse": tm.mean_squared_error(output, truth, squared=False),
        }
    classes = len(given.labels)
    if given.problem_type == "binary":
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
    if given.problem_type == "multilabel":
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
    given = answers(problem_type)
    ours, theirs = metrics.scores(given, ones(given)), expected(given)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # torchmetrics rounds some to float32
        assert float(ours[name]) == pytest.approx(float(value), abs=1e-6), name


@pytest.mark.parametrize(
    "problem_type", ["binary", "multiclass", "steps", "multilabel", "regression"]
)
def test_weights_equal_repeated_rows(problem_type):
    given = answers(problem_type)
    counts = torch.randint(0, 4, (ROWS,))
    drawn = torch.repeat_interleave(torch.arange(len(given.row)), counts[given.row])
    again = replace(given, output=given.output[drawn], truth=given.truth[drawn])
    again = replace(again, row=given.row[drawn])
    weighted = metrics.scores(given, counts.double()[None])
    for name, value in metrics.scores(again, ones(given)).items():
        torch.testing.assert_close(weighted[name], value)


def test_undefined_scores_are_nan_and_null():
    given = answers("binary")
    given = replace(given, truth=torch.zeros_like(given.truth))
    found = metrics.intervals(given)
    assert found["accuracy"].value > 0
    assert found["auroc"].to_json() == {"value": None, "low": None, "high": None}


def test_intervals_match_theory():
    """The accuracy of N independent rows is within 1.96 sqrt(p (1 - p) / N) 95% of the time."""
    given = answers("binary")
    found = metrics.intervals(given)["accuracy"]
    half = 1.96 * (found.value * (1 - found.value) / ROWS) ** 0.5
    # 500 draws place each bound within about a tenth of the half-width
    assert found.high - found.value == pytest.approx(half, rel=0.25)
    assert found.value - found.low == pytest.approx(half, rel=0.25)
    assert found == metrics.intervals(given)["accuracy"]
    assert found != metrics.intervals(given, seed=1)["accuracy"]


def test_steps_of_a_row_are_resampled_together():
    """Repeating every row's item ten times does not narrow the interval."""
    once = answers("multiclass")
    many = Answers(
        "steps",
        once.labels,
        once.output.repeat_interleave(10, 0),
        once.truth.repeat_interleave(10),
        once.row.repeat_interleave(10),
        ROWS,
    )
    one, other = (metrics.intervals(each)["accuracy"] for each in (once, many))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_paired_difference_is_narrower_than_an_interval():
    one = answers("binary", skill=1.0)
    other = replace(one, output=one.output.clone())
    certain = (one.output - 0.5).abs() > 0.01
    wrong = ((one.predicted == one.truth) & certain).nonzero()[:15, 0]
    other.output[wrong] = 1 - other.output[wrong]
    gain = metrics.difference(one, other, "accuracy")
    assert gain.value == pytest.approx(15 / ROWS)
    assert gain.low > 0
    alone = metrics.intervals(one)["accuracy"]
    assert gain.high - gain.low < alone.high - alone.low


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_optimal(seed):
    given = answers("binary", seed)
    chosen = metrics.threshold(given)
    tried = [*torch.linspace(-0.01, 1.01, 409).tolist(), chosen]
    found = {
        each: float(metrics.scores(given, ones(given), each)["balanced_accuracy"]) for each in tried
    }
    assert found[chosen] == max(found.values())


def test_threshold_defaults_to_half():
    given = answers("binary")
    one_label = replace(given, truth=torch.ones_like(given.truth))
    assert metrics.threshold(one_label) == 0.5
    perfect = replace(given, output=given.truth * 0.4 + 0.3)
    assert metrics.threshold(perfect) == 0.5


@pytest.mark.parametrize("problem_type", ["binary", "multiclass"])
def test_calibration_matches_torchmetrics(problem_type):
    given = answers(problem_type)
    found = metrics.calibration(given)
    if problem_type == "multiclass":
        theirs = tmc.multiclass_calibration_error(given.output, given.truth, 4, n_bins=10)
        assert found["ece"] == pytest.approx(float(theirs), abs=1e-5)
    assert sum(each["items"] for each in found["bins"]) == ROWS
    perfect = replace(given, output=given.truth.double()) if problem_type == "binary" else None
    if perfect is not None:
        assert metrics.calibration(perfect)["ece"] == 0


def test_confusion():
    given = answers("multiclass")
    theirs = tmc.multiclass_confusion_matrix(given.output, given.truth, 4)
    assert metrics.confusion(given) == theirs.tolist()
    many = answers("multilabel")
    theirs = tmc.multilabel_confusion_matrix(many.output, many.truth, 4)
    assert torch.tensor(metrics.confusion(many)).view(4, 2, 2).tolist() == theirs.tolist()


def test_regression_is_in_label_units():
    config = configuration("regression", target=(10.0, 4.0))
    output, truth, row = evaluation.items(
        config, torch.tensor([[1.0], [0.0]]), torch.tensor([0.5, -1])
    )
    assert output.tolist() == [14, 10]
    assert truth.tolist() == [12, 6]
    assert row.tolist() == [0, 1]


def test_r2_of_nearly_equal_values():
    truth = 1.7e9 + 50 * (torch.arange(200).double() % 2) + torch.arange(200) % 5
    output = truth + 25 * torch.sin(torch.arange(200).double())
    near, far = (
        Answers("regression", (), output - offset, truth - offset, torch.arange(200), 200)
        for offset in (1.7e9, 0)
    )
    expected = tm.r2_score(near.output, near.truth)
    assert metrics.value(far, "r2") == pytest.approx(float(expected), abs=1e-9)
    # The resamples too, to the precision of float64 at 1.7e9 with a standard deviation of 25.
    both = [metrics.intervals(each)["r2"] for each in (near, far)]
    assert both[0].low == pytest.approx(both[1].low, abs=1e-6)
    assert both[0].high == pytest.approx(both[1].high, abs=1e-6)


def test_small_scores_keep_significant_digits():
    assert metrics.plain(1.23456789e-9) == 1.23457e-09
    assert metrics.plain(0.123456789) == 0.123457
    assert metrics.plain(1234.123456789) == 1234.123457
    assert metrics.plain(float("nan")) is None


def test_only_steps_with_a_label_count():
    config = configuration("steps")
    label = torch.tensor([[IGNORE, 1, 0], [2, IGNORE, IGNORE]])
    output, truth, row = evaluation.items(config, torch.zeros(2, 3, 3), label)
    assert truth.tolist() == [1, 0, 2]
    assert row.tolist() == [0, 0, 1]
    assert output.shape == (3, 3)


def configuration(problem_type: str, target: tuple[float, float] | None = None) -> RunConfig:
    model = ModelConfig(
        ("image", "text"),
        problem_type=problem_type,
        stream=problem_type == "steps",
        fusion="aligned" if problem_type == "steps" else "tokens",
    )
    return RunConfig(DataConfig(), model, TrainConfig(), (), target=target)


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("static"), "binary")


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("steps"), "steps")


def test_noise_has_the_given_strength(static):
    batch = static.examples["train"].collate(range(len(static.examples["train"])))
    dice = torch.Generator().manual_seed(0)
    worse = perturbations.noise(batch, "audio", 0.5, dice)
    inside = torch.arange(batch["audio"].shape[1]) < batch["audio_lengths"][:, None]
    added = (worse["audio"] - batch["audio"])[inside]
    ratio = float(added.std() / batch["audio"][inside].std())
    assert ratio == pytest.approx(0.5, rel=0.1)  # thousands of samples
    worse = perturbations.noise(batch, "image", 0.25, dice)
    assert worse["frames"].dtype == torch.uint8
    assert not torch.equal(worse["frames"], batch["frames"])
    assert torch.equal(worse["image"], batch["image"])
    worse = perturbations.noise(batch, "text", 1.0, dice, vocabulary=300)
    assert (worse["text"] != batch["text"]).float().mean() > 0.9
    assert torch.equal(perturbations.noise(batch, "text", 0.0, dice, 300)["text"], batch["text"])


def test_donate_swaps_one_modality(static):
    batch = static.examples["train"].collate(range(4))
    donors = torch.tensor([3, 2, 1, 0])
    other = perturbations.donate(batch, "audio", donors)
    assert torch.equal(other["audio"], batch["audio"].flip(0))
    assert torch.equal(other["audio_lengths"], batch["audio_lengths"].flip(0))
    assert torch.equal(other["text"], batch["text"])


@pytest.mark.parametrize("case", ["static", "stepped"])
def test_evaluate_run(case, request):
    run = request.getfixturevalue(case)
    result = evaluation.evaluate_run(run.folder)
    written = json.loads((run.folder / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert result["split"] == "test"
    assert result["main"] == "fusion"
    assert list(result["models"]) == [each.name for each in run.trained]
    for each in run.trained:
        found = result["models"][each.name]["scores"]["accuracy"]
        assert found["value"] == pytest.approx(each.final["test"].score, abs=1e-6), each.name
        assert found["low"] <= found["value"] <= found["high"]
    said = [each["summary"] for each in result["comparison"]]
    assert len(said) == len(run.trained) - 1
    assert all("fusion" in each and "95% interval" in each for each in said)
    modalities = run.config.model.modalities
    assert [(each["modality"], each["strength"]) for each in result["robustness"]] == [
        (name, strength) for name in modalities for strength in (None, *perturbations.STRENGTHS)
    ]
    if case == "static":
        assert 0 <= result["models"]["fusion"]["threshold"] <= 1
        assert set(result["models"]["fusion"]["at_threshold"]) == {
            "accuracy",
            "balanced_accuracy",
            "f1",
        }


def test_removing_all_modalities_gives_one_output(static):
    examples, network = static.examples["train"], static.trained[0].model

    def nothing(batch):
        for name in static.config.model.modalities:
            batch = perturbations.remove(batch, name)
        return batch

    found = evaluation.answer(network, static.config, examples, change=nothing)
    # equal inputs in every row, up to float32 rounding
    assert float(found.output.max() - found.output.min()) < 1e-6


def test_evaluate_on_other_tables(static, tmp_path):
    source = read_manifest(static.config.manifest)
    result = evaluation.evaluate_run(static.folder, source.path, split="val")
    assert result["split"] == "val"  # the run's own table: only the rows of that split
    copy = source.path.with_name("another.jsonl")
    copy.write_text("".join(source.path.read_text().splitlines(True)[:7]))
    result = evaluation.evaluate_run(static.folder, copy)
    assert (result["split"], result["rows"]) == ("all rows", 7)
    config = json.loads((static.folder / "config.json").read_text())
    lost = tmp_path / "lost"
    lost.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "metrics.jsonl", "split.json"):
        (lost / name).write_bytes((static.folder / name).read_bytes())
    (lost / "config.json").write_text(json.dumps(config | {"manifest": "/gone.csv"}))
    with pytest.raises(ConfigError, match="give a manifest"):
        evaluation.evaluate_run(lost)


def test_comparison_in_words():
    good, bad = answers("binary", skill=3.0), answers("binary", skill=0.0)
    each = {
        "fusion": evaluation.Evaluation(bad, metrics.intervals(bad)),
        "image only": evaluation.Evaluation(good, metrics.intervals(good)),
        "late": evaluation.Evaluation(bad, metrics.intervals(bad)),
    }
    first, second = evaluation.compare(each, "fusion")
    assert first["summary"].startswith("image only is BETTER than fusion")
    assert second["summary"].startswith("no significant difference between fusion and late")
    swapped = {"fusion": each["image only"], "image only": each["fusion"]}
    assert evaluation.compare(swapped, "fusion")[0]["summary"].startswith("fusion is better")
