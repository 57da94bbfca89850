"""Whole runs: the run folder, loading back, the same seed twice."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from safetensors.torch import save as to_bytes

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    RunConfig,
    TrainConfig,
    checkpoint,
    fit,
    load,
    read_manifest,
)

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12)
OPTIONS = {"width": 16, "hidden": 24, "conv": (4, 8), "grid": 2}
QUIET = Console(quiet=True)


def quick(path, folder, **arguments):
    training = TrainConfig(epochs=2, batch=8)
    return fit(read_manifest(path), folder, DATA, training, OPTIONS, console=QUIET, **arguments)


def content(folder):
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize("kind", ["static", "multiclass", "streams"])
def test_loading_back_answers_identically(rows, streams, save, tmp_path, kind):
    if kind == "multiclass":
        rows = [row | {"label": number % 3} for number, row in enumerate(rows)]
    path = save(streams if kind == "streams" else rows)
    run = quick(path, tmp_path / "run", baselines=False)
    model, preprocessor, config = load(tmp_path / "run")
    assert config == run.config
    assert config.model.kind == {"static": "binary", "streams": "steps"}.get(kind, kind)
    manifest = read_manifest(path, config.columns)
    batch = preprocessor.load(manifest, range(20)).collate(range(20))
    with torch.no_grad():
        assert torch.equal(model(batch), run.trained[0].model.eval()(batch))
    names = {each.name for each in (tmp_path / "run").iterdir()}
    text = set() if kind == "streams" else {"tokenizer.json"}
    files = {"config.json", "model.safetensors", "metrics.jsonl", "models", "split.json"}
    assert names == files | text
    again = checkpoint.load_network(run.folder, checkpoint.names(run.folder)[0])
    with torch.no_grad():
        assert torch.equal(model(batch), again(batch))


def test_the_same_seed_gives_the_same_run(rows, save, tmp_path):
    path = save(rows)
    first, second = (quick(path, tmp_path / name) for name in "ab")
    for one, other in zip(first.trained, second.trained, strict=True):
        assert one.epochs == other.epochs
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_one_modality(rows, save, tmp_path):
    path = save([{"text": row["text"], "label": row["label"]} for row in rows])
    assert [each.name for each in quick(path, tmp_path / "run").trained] == [
        "text only",
        "no recurrence",
    ]


def test_loading_what_is_no_run(rows, save, tmp_path):
    with pytest.raises(ConfigError, match="give a run's folder"):
        load(tmp_path)
    config = quick(save(rows), tmp_path / "run", baselines=False).config.to_json()
    newer = config | {"model": config["model"] | {"flavour": "sweet"}}
    with pytest.raises(ConfigError, match="flavour"):
        RunConfig.from_json(newer)
    del config["labels"]
    with pytest.raises(ConfigError, match="labels"):
        RunConfig.from_json(config)
    weights = tmp_path / "run" / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], to_bytes({"other": torch.zeros(1)})):
        weights.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not this network's weights, or damaged"):
            load(tmp_path / "run")


def test_an_earlier_run_is_not_overwritten(rows, save, tmp_path):
    path = save(rows)
    quick(path, tmp_path / "run", baselines=False)
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"holds metrics\.jsonl already"):
        quick(path, tmp_path / "run", baselines=False)
    assert before == content(tmp_path / "run")
