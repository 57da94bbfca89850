"""Test that the way files are read does not change a run, and what happens if one is damaged."""

from __future__ import annotations

import shutil
from itertools import product

import pytest

from fastrnn.fusion import DataConfig, FitConfig, LoaderConfig, MediaError, fit, read_manifest
from fastrnn.fusion.training import run as experiment
from fastrnn.fusion.training.sampler import shuffled

from .conftest import OPTIONS, QUIET, TRAINING, content, quick, stopped_at


@pytest.mark.slow
def test_results_do_not_depend_on_cache_and_workers(rows, save, tmp_path):
    path = save(rows)
    data = DataConfig(image_size=8, sample_rate=8000, mels=12)
    runs = {}
    options = [*product(("memory", "disk", "none"), (0, 2), (256,)), ("memory", 2, 0)]
    for number, (cache, num_workers, size) in enumerate(options):
        loading = LoaderConfig(
            cache=cache, num_workers=num_workers, cache_size=size, check=bool(number % 2)
        )
        config = FitConfig(data, OPTIONS, TRAINING, loading, baselines=False)
        folder = tmp_path / str(number)
        fit(read_manifest(path), folder, config, console=QUIET)
        runs[cache, num_workers, size] = content(folder)
    first = runs.pop(("none", 0, 256))
    assert "models/fusion/model.safetensors" in first
    for name, each in runs.items():
        assert each == first, name


@pytest.mark.slow
def test_a_run_can_be_resumed_with_other_loading(manifest, tmp_path, monkeypatch):
    quick(manifest, tmp_path / "once")
    with stopped_at(monkeypatch, 2):
        quick(manifest, tmp_path / "often", loading=LoaderConfig(cache="disk", num_workers=2))
    with stopped_at(monkeypatch, 2):
        quick(manifest, tmp_path / "often", loading=LoaderConfig(cache="none"), resume=True)
    experiment.resume(tmp_path / "often", QUIET, num_workers=2)
    assert content(tmp_path / "often") == content(tmp_path / "once")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_run_can_be_resumed_after_a_damaged_file_is_repaired(manifest, tmp_path, num_workers):
    run = quick(manifest, tmp_path / "once")
    # The first image of the second step of the first epoch.
    row = run.datasets["train"].rows[int(shuffled(16, seed=0, epoch=1)[6])]
    picture = tmp_path / f"{row}.png"
    shutil.copy(picture, tmp_path / "kept")
    picture.write_bytes(b"damaged")
    loading = LoaderConfig(num_workers=num_workers)
    with pytest.raises(
        MediaError, match=rf"manifest.jsonl, line {row + 1}: .*/{row}\.png"
    ) as caught:
        quick(manifest, tmp_path / "run", loading=loading)
    assert "Traceback" not in str(caught.value)
    assert (tmp_path / "run" / "checkpoint" / "state.safetensors").is_file()
    with pytest.raises(MediaError, match=rf"{row}\.png"):
        experiment.resume(tmp_path / "run", QUIET)
    shutil.move(tmp_path / "kept", picture)
    experiment.resume(tmp_path / "run", QUIET)
    assert content(tmp_path / "run") == content(tmp_path / "once")


def test_check_finds_a_damaged_file_before_the_run_begins(manifest, tmp_path):
    (tmp_path / "7.png").write_bytes(b"damaged")
    with pytest.raises(MediaError, match=r"line 8: .*7\.png"):
        quick(manifest, tmp_path / "run", loading=LoaderConfig(check=True))
    assert not (tmp_path / "run").exists()
