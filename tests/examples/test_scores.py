"""Test the demos: their files are as documented, and models reach the expected scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from examples.multimodal import demos
from examples.multimodal.common import accuracy, logits, train_each
from examples.multimodal.datasets import claim_check, cued_recall, noisy_digit, spoken_claim
from examples.multimodal.noisy import DROPOUT, posterior_product
from fastrnn.fusion import checkpoint, fit, load_dataset, read_manifest
from fastrnn.fusion.data.audio import log_mel, read_audio
from fastrnn.fusion.training.baselines import variants

QUIET = Console(quiet=True)


def test_cued_recall_bounds():
    pictures, memoryless = cued_recall.bounds()
    # 20,000 rows of 8 steps, each between 0 and 1: a standard error below 0.002
    assert pictures == pytest.approx(cued_recall.PICTURE_BOUND, abs=0.004)
    assert memoryless == pytest.approx(cued_recall.NO_MEMORY_BOUND, abs=0.004)


def test_cued_recall_labels_follow_from_the_files(tmp_path):
    """The label is the digit of the last step with a high tone."""
    manifest = read_manifest(cued_recall.write(tmp_path, 0, {"train": 40, "val": 10, "test": 10}))
    values = {}  # picture -> digit, from the steps with a high tone
    config = demos.DEMOS[cued_recall.NAME].config.data
    for row, steps in zip(manifest.rows, manifest.rows.steps(), strict=True):
        wave = read_audio(tmp_path / row.audio, config)
        answer = None
        for step, part in enumerate(wave.chunk(steps)):
            energy = log_mel(part, config).exp().mean(0)
            if energy[10:].sum() > energy[:10].sum():  # band 10 of 20 begins at 1300 Hz
                answer = values.setdefault(row.images[step], row.label[step])
            assert row.label[step] == answer


def test_cued_recall_pictures_are_disjoint(tmp_path):
    manifest = read_manifest(cued_recall.write(tmp_path, 0, {"train": 99, "val": 99, "test": 99}))
    seen: dict = {}
    for row in manifest.rows:
        for path in row.images:
            assert seen.setdefault(path, row.split) == row.split
            assert Path(path).name.startswith(row.split)


@pytest.mark.slow
def test_claim_check_halves_carry_no_information(tmp_path):
    manifest = read_manifest(claim_check.write(tmp_path, 0, {"train": 400, "val": 40, "test": 40}))
    pictures, texts = Counter(), Counter()
    for row in manifest.rows:
        sign = 1 if row.label == "true" else -1
        pictures[row.images[0]] += sign
        texts[row.split, row.text] += sign
    assert not any(pictures.values())
    assert not any(texts.values())


@pytest.mark.slow
def test_learns_cued_recall(tmp_path):
    """Uses half of the demo's training rows, with nearly the thresholds of the full demo."""
    rows = {"train": 2000, "val": 100, "test": 1200}
    run = demos.run_demo(cued_recall.NAME, tmp_path / "run", 0, rows, console=QUIET)
    accuracy = {each.name: each.test_score.score for each in run.trained}
    assert accuracy.pop("fusion") >= 0.92
    assert set(accuracy) == {"image only", "audio only", "late", "no recurrence"}
    assert max(accuracy.values()) <= 0.42
    assert {each.name for each in run.folder.iterdir()} == {
        "config.json",
        "curves.png",
        "data",
        "metrics.jsonl",
        "model.safetensors",
        "models",
        "processor_config.json",
        "split.json",
    }


def fusion_run(name, folder, rows, **training):
    """Train the fusion of a demo without its baselines."""
    demo = demos.DEMOS[name]
    manifest = read_manifest(demo.write(folder / "data", 0, rows))
    training = replace(demo.config.train, **training)
    config = replace(demo.config, train=training, baselines=False)
    return fit(manifest, folder / "run", config, console=QUIET)


def baselines(run, names, **training):
    """Train some of the baselines of a run; return name -> result."""
    configs = {name: each for name, each in variants(run.config.model).items() if name in names}
    training = replace(run.config.train, **training)
    return train_each(configs, training, run.datasets, run.folder, QUIET)


@pytest.mark.exhaustive
def test_learns_claim_check(tmp_path):
    """Uses three quarters of the demo's rows and epochs, and a slightly lower threshold.

    Different rounding on another processor has changed the fusion's score from 0.93 to 0.9275. One
    epoch is enough for the other models: each picture and each sentence is true as often as false,
    so training cannot move them from one half.
    """
    rows = {"train": 12_000, "val": 200, "test": 2000}
    run = fusion_run(claim_check.NAME, tmp_path, rows, epochs=6)
    assert run.trained[0].test_score.score >= 0.9
    others = baselines(run, ("image only", "text only", "late"), epochs=1)
    assert len(others) == 3
    for other in others.values():
        assert 0.45 <= other.test_score.score <= 0.55


@pytest.mark.exhaustive
def test_learns_claim_check_at_its_own_size(tmp_path):
    run = demos.run_demo(claim_check.NAME, tmp_path / "run", 0, console=QUIET)
    accuracy = {each.name: each.test_score.score for each in run.trained}
    assert accuracy["fusion"] >= 0.95
    for name in ("image only", "text only", "late"):
        assert 0.45 <= accuracy[name] <= 0.55


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_cued_recall_at_its_own_size(tmp_path, seed):
    run = demos.run_demo(cued_recall.NAME, tmp_path / "run", seed, console=QUIET)
    accuracy = {each.name: each.test_score.score for each in run.trained}
    assert accuracy.pop("fusion") >= 0.95
    assert max(accuracy.values()) <= 0.42


@pytest.mark.exhaustive
def test_learns_noisy_digit(tmp_path):
    """Uses a quarter of the demo's training rows, and only the baselines that the test needs.

    Three seeds have given a gain of 0.118, 0.130 and 0.171; the threshold leaves room for other
    rounding. With so few rows, the fusion is too far below the product of the posteriors,
    which the test at full size compares with.
    """
    rows = {"train": 1500, "val": 150, "test": 1000}
    run = fusion_run(noisy_digit.NAME, tmp_path, rows)
    others = baselines(run, ("image only", "audio only"))
    assert len(others) == 2
    best = max(each.test_score.score for each in others.values())
    assert run.trained[0].test_score.score >= best + 0.06


@pytest.mark.exhaustive
def test_noisy_digit_with_one_modality_missing(tmp_path):
    run = demos.run_demo(noisy_digit.NAME, tmp_path / "run", 0, console=QUIET)
    scores = {each.name: each.test_score.score for each in run.trained}
    assert scores["fusion"] >= max(scores["image only"], scores["audio only"]) + 0.1
    assert scores["fusion"] >= posterior_product(run) - 0.04
    both = run.held_out
    configs = {"dropout": replace(run.config.model, modality_dropout=DROPOUT)}
    found = train_each(configs, run.config.train, run.datasets, run.folder, QUIET)
    for lost in ("image", "audio"):
        assert accuracy(logits(found["dropout"].model, both, lost), both) >= 0.58


@pytest.mark.exhaustive
def test_spoken_claim_gains_from_transfer(tmp_path):
    run = demos.run_demo(spoken_claim.NAME, tmp_path / "run", 0, console=QUIET)
    scratch, processor, _ = checkpoint.load(run.folder / "manifest-from-scratch")
    manifest = read_manifest(run.folder / "data" / "manifest.csv")
    rows = [number for number, row in enumerate(manifest.rows) if row.split == "test"]
    test = load_dataset(manifest, processor, rows)
    before = accuracy(logits(scratch, test), test)
    assert run.trained[0].test_score.score >= before + 0.12
