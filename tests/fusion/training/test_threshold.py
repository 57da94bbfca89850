"""Test the threshold that a fit tunes on val rows, and that predict uses."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fastrnn.fusion import FitConfig, FusionModel, cli, fit, load, read_manifest
from fastrnn.fusion.evaluation import evaluator
from fastrnn.fusion.tasks import curves
from fastrnn.fusion.training import baselines

from .conftest import DATA, OPTIONS, QUIET, TRAINING, content, quick, stopped_at


@pytest.fixture
def tuned(monkeypatch):
    """Make every fit of a binary model find the threshold 0.3."""
    monkeypatch.setattr(baselines, "safe_threshold", lambda output, truth: 0.3)


def drawn(rows: int, bias: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw labels, and the probabilities of a model that is right about the odds, except a bias."""
    truth = (torch.rand(rows) < 0.5).long()
    evidence = torch.randn(rows, dtype=torch.float64) + 1.6 * (truth - 0.5)
    return (1.6 * evidence + bias).sigmoid(), truth


@pytest.mark.parametrize(("bias", "least", "most"), [(0.0, -0.002, 0.0), (1.5, 0.02, 0.09)])
def test_a_tuned_threshold_does_no_harm_with_few_rows(bias, least, most):
    """Test the mean gain in accuracy, on many other rows, from a threshold tuned on 50."""
    output, truth = drawn(20_000, bias)
    before = ((output > 0.5).long() == truth).double().mean()
    gains = []
    for _ in range(200):
        chosen = curves.safe_threshold(*drawn(50, bias))
        gains.append(((output > chosen).long() == truth).double().mean() - before)
    assert least <= float(torch.stack(gains).mean()) <= most


def test_when_the_threshold_stays():
    truth = torch.tensor([0] * 40 + [1] * 40)
    output = torch.where(truth == 1, 0.4, 0.2) + torch.linspace(0, 0.01, 80)
    chosen = curves.safe_threshold(output, truth)
    assert output[truth == 0].max() < chosen < output[truth == 1].min()
    few = torch.cat([torch.arange(40), torch.arange(40, 49)])  # nine rows of the second label
    assert curves.safe_threshold(output[few], truth[few]) == 0.5
    assert curves.safe_threshold(output[:40], truth[:40]) == 0.5
    # A rise of balanced accuracy that costs accuracy: of 200 rows, 10 have the second label.
    truth = torch.tensor([0] * 190 + [1] * 10)
    output = torch.cat([torch.full((150,), 0.1), torch.full((50,), 0.3)]).double()
    best = curves.threshold(output, truth)
    assert best < 0.3
    assert curves.safe_threshold(output, truth) == 0.5


def test_the_gain_must_be_two_standard_errors():
    """Of 20 rows a label, k of the second are between the threshold and 0.5."""
    truth = torch.tensor([0] * 20 + [1] * 20)
    for k in range(20):
        output = torch.cat([torch.full((20,), 0.1), torch.full((20,), 0.9)]).double()
        output[20 : 20 + k] = 0.3
        rates = 21 / 22, (21 - k) / 22
        error = math.sqrt(sum(rate * (1 - rate) / 20 for rate in rates)) / 2
        tuned = k / 20 / 2 >= 2 * error
        assert (curves.safe_threshold(output, truth) != 0.5) == tuned


def test_predict_uses_the_threshold(manifest, tuned, tmp_path, capsys):
    run = quick(manifest, tmp_path / "run")
    assert run.config.threshold == load(run.folder).config.threshold == 0.3
    model = FusionModel.from_pretrained(run.folder)
    model.save(tmp_path / "saved")
    chances = model.predict_proba(manifest)["yes"]
    for threshold, used in ((None, 0.3), (0.5, 0.5), (float(chances.median()),) * 2):
        expected = ["yes" if chance > used else "no" for chance in chances]
        saved = FusionModel.from_pretrained(tmp_path / "saved")
        assert saved.predict(manifest, threshold=threshold).tolist() == expected
        flags = [] if threshold is None else ["--threshold", repr(threshold)]
        out = tmp_path / "answers.jsonl"
        assert cli.main(["predict", str(run.folder), str(manifest), "-o", str(out), *flags]) == 0
        records = [json.loads(line) for line in out.read_text().splitlines()]
        assert [each["label"] for each in records] == expected
    command = ["predict", str(run.folder), str(manifest), "-o", str(out), "--threshold"]
    assert cli.main([*command, "tuned"]) == 0
    for given, said in (("half", "--threshold must be tuned or a number"), ("2", "at most 1")):
        assert cli.main([*command, given]) == 2
        assert said in capsys.readouterr().err


def test_the_evaluation_has_the_threshold_of_predict(manifest, tuned, tmp_path, monkeypatch):
    run = quick(manifest, tmp_path / "run")
    monkeypatch.setattr(evaluator, "safe_threshold", lambda output, truth: 0.4)
    assert evaluator.evaluate_run(run.folder)["models"]["fusion"]["threshold"] == 0.3
    network, rows = run.trained[0].model, run.datasets["val"]
    assert evaluator.evaluate(network, rows, rows).threshold == 0.4


@pytest.mark.slow
def test_the_threshold_outlives_an_interruption(rows, save, tuned, tmp_path, monkeypatch):
    """Interrupt the training of a baseline: the main model is already trained."""
    path = save([{name: row[name] for name in ("text", "label")} for row in rows])
    config = FitConfig(DATA, OPTIONS, TRAINING)

    def work(folder):
        return fit(read_manifest(path), folder, config, resume=True, console=QUIET)

    whole = content(work(tmp_path / "whole").folder)
    with stopped_at(monkeypatch, 7 + 2):  # after the seven saves of the main model
        work(tmp_path / "run")
    assert load(tmp_path / "run").config.threshold == 0.3
    resumed = work(tmp_path / "run")
    assert resumed.config.threshold == 0.3
    assert content(resumed.folder) == whole


def test_only_binary_models_are_tuned(rows, save, tuned, tmp_path):
    labels = ("a", "b", "a|b")
    path = save([{"text": row["text"], "label": labels[n % 3]} for n, row in enumerate(rows)])
    run = quick(path, tmp_path / "run")
    assert run.config.model.problem_type == "multilabel"
    assert load(run.folder).config.threshold == 0.5
