"""Test that metrics also go to the trackers of experiments."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastrnn.fusion import ConfigError, FitConfig, fit, read_manifest
from fastrnn.fusion.training import devices
from fastrnn.fusion.training import run as experiment

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


@pytest.mark.slow
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
