"""The demos that go beyond the standard comparison, on a few rows."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from examples.multimodal import article, demos, transfer
from examples.multimodal.common import accuracy, logits
from examples.multimodal.datasets import noisy_digit, spoken_claim
from examples.multimodal.noisy import posterior_product
from examples.multimodal.replace_modality import replace_modality
from fastrnn.fusion import ConfigError, checkpoint
from fastrnn.fusion.models.network import FusionNetwork

TINY = {"train": 40, "val": 20, "test": 20}
VOICES = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(autouse=True)
def few_voices(monkeypatch):
    for task in (noisy_digit, spoken_claim):
        monkeypatch.setattr(task, "VOICES", VOICES)


def show(name, folder, **options):
    told = io.StringIO()
    console = Console(file=told, width=120)
    return demos.run_demo(name, folder, 0, TINY, 1, console, **options), told.getvalue()


@pytest.mark.slow
def test_noisy_digit(tmp_path):
    run, told = show(noisy_digit.NAME, tmp_path, profile=True)
    assert "product of the posteriors" in told
    assert "audio alone" in told
    assert "waiting for data" in told
    assert {"fusion", "image only", "audio only", "late"} <= {each.name for each in run.trained}
    test = run.held_out
    single = {each.name: logits(each.model, test).softmax(-1) for each in run.trained}
    product = single["image only"] * single["audio only"]  # digits are equally frequent
    assert posterior_product(run) == pytest.approx(
        float((product.argmax(-1) == test.labels()).double().mean())
    )


@pytest.mark.exhaustive
def test_missing_modality_is_not_read(tmp_path):
    run, _ = show(noisy_digit.NAME, tmp_path)
    network, test = run.trained[0].model, run.held_out
    batch = test.batch(range(20))
    batch["audio"] = torch.full_like(batch["audio"], torch.nan)
    batch["audio_present"] = torch.zeros(20, dtype=torch.bool)
    with torch.no_grad():
        # Equal up to rounding, and finite: none of the NaN inputs is read.
        torch.testing.assert_close(network(batch), logits(network, test, "audio"))
    assert 0 <= accuracy(logits(network, test), test) <= 1


@pytest.mark.slow
def test_spoken_claim_transfers_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "WRITTEN", 1)
    monkeypatch.setattr(spoken_claim, "SENTENCES", 40)
    run, told = show(spoken_claim.NAME, tmp_path)
    assert "transferred" in told
    assert "40 rows, 210 sentences" in told
    carried, _, _ = checkpoint.load(tmp_path / "carried")
    written, _, _ = checkpoint.load(tmp_path / "written")
    now, source, before = (each.state_dict() for each in (run.trained[0].model, carried, written))
    assert now.keys() == source.keys()
    for name, weight in now.items():
        # The mixture is fitted to val rows, also if all of its parts are frozen.
        if name != "mixture" and not name.startswith("encoders.audio"):
            assert torch.equal(weight, source[name]), name
            assert torch.equal(weight, before[name.replace("audio", "image")]), name
    heard = [name for name in now if name.startswith("encoders.audio")]
    assert not all(torch.equal(now[name], source[name]) for name in heard)


@pytest.mark.slow
def test_article(tmp_path, monkeypatch):
    monkeypatch.setattr(article, "PIXELS", 8)
    run, told = show("article", tmp_path)
    for name in (*article.FUSIONS, "article, cell rnn", "article, cell lstm"):
        assert name in told
    assert "W_hh never gets a gradient" in " ".join(told.split())
    assert [each.name for each in run.trained] == ["fusion"]


@pytest.mark.exhaustive
def test_transplant_keeps_the_fusion(tmp_path):
    """Equal features give equal logits before and after the modality is replaced."""
    run, _ = show("claim-check", tmp_path)
    folder = replace_modality(tmp_path, tmp_path / "new", "image", "audio", {"mels": 12})
    network, processor, config = checkpoint.load(folder)
    assert config.model.modalities == processor.modalities == ("audio", "text")
    assert processor.task == run.processor.task
    features = {name: torch.randn(3, config.model.width) for name in ("audio", "text")}
    old = {"image": features["audio"], "text": features["text"]}
    with torch.no_grad():
        answers = [
            each.head(each.fusion(values, dict.fromkeys(values), None).x)[0]
            for each, values in ((network, features), (run.trained[0].model.eval(), old))
        ]
    assert isinstance(network, FusionNetwork)
    assert torch.equal(*answers)
    for old_name, new_name in (("audio", "series"), ("image", "text"), ("image", "video")):
        with pytest.raises(ConfigError):
            replace_modality(tmp_path, tmp_path / "no", old_name, new_name)
    with pytest.raises(ConfigError, match="another order"):
        replace_modality(folder, tmp_path / "no", "text", "aaa")
