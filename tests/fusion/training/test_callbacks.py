"""Test what callbacks are told, and that they can stop a training."""

from __future__ import annotations

import json

import pytest

from fastrnn.fusion import FitConfig, TrainConfig, fit, read_manifest
from fastrnn.fusion.training import run as experiment

from .conftest import DATA, OPTIONS, QUIET, content, quick, stopped_at

TRAINING = TrainConfig(epochs=3, batch_size=6, save_every=1e-9)


class Recorder:
    """Keeps the metrics, and stops the training of each model after an epoch."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.told: list[dict] = []

    def on_epoch_end(self, metrics):
        self.told.append(metrics)
        return metrics["epoch"] == self.last


class Silent:
    def on_epoch_end(self, metrics):
        """Return nothing, which does not stop the training."""


def test_callbacks_get_the_metrics_of_every_epoch(manifest, tmp_path):
    first, second = Recorder(), Recorder()
    run = quick(manifest, tmp_path / "run", TRAINING, callbacks=(first, Silent(), second))
    assert first.told == second.told
    assert [each["epoch"] for each in first.told] == [1, 2, 3]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    found = [
        {
            "model": each["model"],
            "epoch": each["epoch"],
            "split": split,
            **each[split],
        }
        for each in first.told
        for split in ("train", "val")
    ]
    logged = [each for each in lines if each["split"] != "test"]
    assert found == [{k: v for k, v in each.items() if k != "seconds"} for each in logged]
    for told, epoch in zip(first.told, run.trained[0].epochs, strict=True):
        for split, score in epoch.items():
            assert told[split] == {"loss": score.loss, "accuracy": score.score}


def test_a_regression_reports_r2(rows, save, tmp_path):
    path = save([{"text": row["text"], "label": n**2} for n, row in enumerate(rows)])
    recorder, config = Recorder(1), FitConfig(DATA, OPTIONS, TRAINING, baselines=False)
    table = read_manifest(path, problem_type="regression")
    fit(table, tmp_path / "run", config, console=QUIET, callbacks=(recorder,))
    assert [sorted(each["val"]) for each in recorder.told] == [["loss", "r2"]]


@pytest.mark.slow
def test_true_stops_the_training_of_one_model(manifest, tmp_path):
    recorder = Recorder(2)
    config = FitConfig(DATA, OPTIONS, TRAINING)
    table = read_manifest(manifest)
    run = fit(table, tmp_path / "run", config, console=QUIET, callbacks=(recorder, Silent()))
    assert len(run.trained) > 1
    assert [len(each.epochs) for each in run.trained] == [2] * len(run.trained)
    names = [each["model"] for each in recorder.told]
    assert names == [each.name for each in run.trained for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [6, *(pytest.param(x, marks=pytest.mark.exhaustive) for x in (5, 7))]
)
def test_a_stopped_run_that_is_killed_gives_the_same_result(
    manifest, tmp_path, monkeypatch, number
):
    """State 6 is that of the epoch in which the callback stops, 7 follows the saved network."""
    quick(manifest, tmp_path / "once", TRAINING, callbacks=(Recorder(2),))
    with stopped_at(monkeypatch, number):
        quick(manifest, tmp_path / "often", TRAINING, callbacks=(Recorder(2),))
    recorder = Recorder(2)
    experiment.resume(tmp_path / "often", QUIET, callbacks=(recorder,))
    assert [each["epoch"] for each in recorder.told] == ([2] if number == 5 else [])
    assert content(tmp_path / "often") == content(tmp_path / "once")
