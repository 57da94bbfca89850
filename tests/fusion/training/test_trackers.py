"""Test that metrics also go to the trackers of experiments."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastrnn.fusion import ConfigError, FitConfig, fit, read_manifest
from fastrnn.fusion.training import devices
from fastrnn.fusion.training import run as experiment
from fastrnn.fusion.training.loggers import Log

from .conftest import DATA, OPTIONS, QUIET, TRAINING, quick, stopped_at


def scalars(folder) -> dict[str, dict[int, float]]:
    """Return the scalars in all event files: name -> step -> value."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            steps = found.setdefault(name, {})
            steps |= {each.step: each.value for each in events.Scalars(name)}
    return found


def expected(folder) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        each = json.loads(line)
        for name in ("loss", "accuracy"):
            key = f"{each['model']}/{each['split']}/{name}"
            found.setdefault(key, {})[each["epoch"]] = pytest.approx(each[name], rel=1e-6)
    return found


@pytest.mark.exhaustive
def test_tensorboard_has_the_metrics_of_every_model(manifest, tmp_path):
    config = FitConfig(DATA, OPTIONS, TRAINING, report_to=("tensorboard",))
    run = fit(read_manifest(manifest), tmp_path / "run", config, console=QUIET)
    found = scalars(run.folder)
    assert {name.split("/")[0] for name in found} == {each.name for each in run.trained}
    assert {"fusion/train/loss", "fusion/val/accuracy", "fusion/test/loss"} <= found.keys()
    assert found == expected(run.folder)


def test_a_resumed_run_continues_its_metrics(manifest, tmp_path, monkeypatch):
    with stopped_at(monkeypatch, 4):  # in the second epoch
        quick(manifest, tmp_path / "run", report_to=("tensorboard",))
    run = experiment.resume(tmp_path / "run", QUIET)
    assert scalars(run.folder) == expected(run.folder)
    assert set(scalars(run.folder)["fusion/train/loss"]) == {1, 2}


class FakeWandb:
    """Drops metrics whose step is below that of earlier ones, as Weights & Biases does."""

    name = "wandb"

    def __init__(self) -> None:
        self.step, self.kept = 0, []

    def log(self, values, step=None):
        step = self.step + 1 if step is None else step
        if step >= self.step:
            self.step = step
            self.kept.append(values)


def test_wandb_keeps_the_metrics_of_every_model(tmp_path):
    tracker, places = FakeWandb(), [("fusion", 1), ("fusion", 2), ("late", 1), ("late", 2)]
    with Log(tmp_path / "metrics.jsonl", QUIET, trackers=[tracker]) as log:
        tracker.finish = lambda: None
        for model, epoch in places:
            log.record(model, epoch, "val", seconds=1.0, loss=0.5)
    assert tracker.kept == [
        {f"{model}/val/loss": 0.5, f"{model}/epoch": epoch} for model, epoch in places
    ]


def test_no_tracker_writes_without_report_to(manifest, tmp_path):
    run = quick(manifest, tmp_path / "run")
    assert scalars(run.folder) == {}


def test_an_unknown_tracker(manifest, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="the tracker nothing is unknown or not installed"):
        quick(manifest, tmp_path / "run", report_to=("nothing",))
    monkeypatch.setattr(devices, "get_available_trackers", list)
    with pytest.raises(ConfigError, match="tracker tensorboard is unknown or not"):
        quick(manifest, tmp_path / "run", report_to=("tensorboard",))
    assert not (tmp_path / "run").exists()
