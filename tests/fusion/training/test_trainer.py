"""Test the options of TrainConfig: freezing, transfer, early stopping, balancing and logs."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    FitConfig,
    Processor,
    TrainConfig,
    checkpoint,
    fit,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.models.encoders import ENCODERS
from fastrnn.fusion.models.network import equal_mixture
from fastrnn.fusion.training.loggers import Log, duration
from fastrnn.fusion.training.meter import Score
from fastrnn.fusion.training.trainer import Trained
from fastrnn.fusion.training.transfer import freeze, part

DATA = DataConfig(image_size=8, vocabulary=256)
OPTIONS = {"width": 16, "hidden": 16, "conv": (4, 8), "grid": 2}
TRAINING = TrainConfig(epochs=1, batch_size=8)


def run(rows, save, folder, names=("image", "text", "label"), training=TRAINING, **others):
    manifest = read_manifest(save([{name: row[name] for name in names} for row in rows]))
    console = others.pop("console", Console(quiet=True))
    config = FitConfig(DATA, OPTIONS, training, baselines=False, **others)
    return fit(manifest, folder, config, console=console)


def test_a_run_starts_from_another(rows, save, tmp_path):
    first = run(rows, save, tmp_path / "first")
    said = io.StringIO()
    for row in rows:
        row["text"] += " quite another vocabulary, which is not to be learned"
    second = run(
        rows,
        save,
        tmp_path / "second",
        training=TrainConfig(epochs=1, batch_size=8, freeze=("text", "fusion")),
        init_from=str(tmp_path / "first"),
        console=Console(file=said, width=400),
    )
    text = said.getvalue()
    assert "0 are newly initialised (nothing); 0 of the other run are unused" in text
    files = [each.folder / "tokenizer.json" for each in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    before, after = (each.trained[0].model.state_dict() for each in (first, second))
    for name, each in before.items():
        assert torch.equal(each, after[name]) == (part(name) in ("text", "fusion"))


def test_only_transferred_weights_are_frozen(rows, save, tmp_path):
    """The projection of a new modality is untrained, so it must not be frozen."""
    run(rows, save, tmp_path / "first", ("text", "label"))
    training = TrainConfig(epochs=1, batch_size=8, freeze=("fusion",))
    start = str(tmp_path / "first")
    second = run(rows, save, tmp_path / "second", training=training, init_from=start)
    trained = {
        name: each.requires_grad for name, each in second.trained[0].model.named_parameters()
    }
    assert not trained["fusion.project.text.0.weight"]
    assert trained["fusion.project.image.0.weight"]


class Normed(torch.nn.Module):
    """An encoder with batch norm and dropout."""

    def __init__(self, config) -> None:
        super().__init__()
        self.features = config.width
        self.norm = torch.nn.BatchNorm2d(3)
        self.project = torch.nn.Linear(3, config.width)
        self.dropout = torch.nn.Dropout(0.5)
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, batch):
        self.modes.add((self.norm.training, self.dropout.training))
        pixels = self.norm(batch["image_frames"].float()).mean((2, 3))
        return self.dropout(self.project(pixels))[batch["image"]]


@pytest.mark.parametrize("parts", [(), ("image",), ("head",)])
def test_a_frozen_part_does_not_change(rows, save, tmp_path, monkeypatch, parts):
    monkeypatch.setitem(ENCODERS, "normed", Normed)
    rows = [{name: row[name] for name in ("image", "text", "label")} for row in rows]
    options = OPTIONS | {"encoders": {"image": "normed"}}
    training = TrainConfig(epochs=1, batch_size=8, freeze=parts)
    config = FitConfig(DATA, options, training, baselines=False)
    made = fit(read_manifest(save(rows)), tmp_path / "run", config, console=Console(quiet=True))
    model = made.trained[0].model
    encoder = model.encoder("image")
    is_frozen = "image" in parts
    assert bool(encoder.norm.running_mean.any()) != is_frozen
    assert ((True, True) in encoder.modes) != is_frozen
    assert torch.equal(model.mixture, equal_mixture(3)) == ("head" in parts)


def test_a_frozen_head_takes_the_mixture(rows, save, tmp_path):
    """Unless the other network has another number of readouts."""
    first = run(rows, save, tmp_path / "first")
    training = TrainConfig(epochs=1, batch_size=8, freeze=("head",))
    start = str(tmp_path / "first")
    second = run(rows, save, tmp_path / "second", training=training, init_from=start)
    before, after = (each.trained[0].model.mixture for each in (first, second))
    assert torch.equal(before, after)
    names = ("image", "audio", "text", "label")
    third = run(rows, save, tmp_path / "third", names, training, init_from=start)
    assert not torch.equal(third.trained[0].model.mixture, equal_mixture(4))


def test_invalid_freezing(rows, save, tmp_path):
    model = run(rows, save, tmp_path / "run").trained[0].model
    for parts, taken, said in (
        (["sound"], None, "the parts are fusion, head, image, text"),
        (["fusion", "head", "image", "text"], None, "no parameter is left to train"),
        (["image"], {"head.readout.bias"}, "no weights of 'image' come from the other run"),
    ):
        with pytest.raises(ConfigError, match=said):
            freeze(model, parts, taken)


def test_patience_keeps_the_best_and_the_last(rows, save, tmp_path):
    training = TrainConfig(
        epochs=9, batch_size=8, learning_rate=0.5, schedule="constant", patience=2
    )
    result = run(rows, save, tmp_path / "run", training=training).trained[0]
    assert len(result.epochs) == min(9, result.best + 2)
    assert result.last is not None
    folder = tmp_path / "run"
    best, last = (checkpoint.load_network(folder, "fusion", last=each) for each in (False, True))
    for name, each in last.state_dict().items():
        assert torch.equal(each, result.last[name])
    for name, each in best.state_dict().items():
        assert torch.equal(each, result.model.state_dict()[name])
    pairs = zip(best.parameters(), last.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ConfigError, match="there are: fusion"):
        checkpoint.load_network(folder, "late")


def test_the_best_epoch():
    scores = [(0.9, 0.5), (0.5, 0.7), (0.4, 0.7), (0.4, 0.7), (0.1, float("nan"))]
    epochs = [{"val": Score(*each)} for each in scores]
    assert Trained("x", torch.nn.Identity(), epochs).best == 3
    assert Score(float("nan"), 0.5).better(None)
    assert not Score(float("nan"), 0.5).better(Score(9.0, 0.5))


def test_label_weights_and_masses(save):
    labels = [["a", None], ["a", "a", "b"], ["b", None, None, None], ["a"]]
    rows = [{"text": "x", "label": label} for label in labels]
    manifest = read_manifest(save(rows), problem_type="steps")
    dataset = load_dataset(manifest, Processor.fit(manifest, range(4), DATA))
    weight = dataset.balance()
    assert weight.tolist() == pytest.approx([6 / (2 * 4), 6 / (2 * 2)])  # 4 steps of a, 2 of b
    assert dataset.masses().tolist() == [1, 3, 1, 1]
    assert dataset.masses(weight).tolist() == pytest.approx([0.75, 3, 1.5, 0.75])


@pytest.mark.parametrize("terminal", [False, True])
def test_the_log_shows_rate_and_time_left(tmp_path, terminal):
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=200)
    with Log(tmp_path / "metrics.jsonl", console) as log:
        log.begin("fusion", 2, 100, done=50)
        log.advance(50)
        log.epoch(1, "val accuracy 0.5")
    for text in ("1/2", "rows/s", "s left", "val accuracy 0.5"):
        assert text in said.getvalue()
    assert [duration(each) for each in (12, 200, 7500)] == ["12 s", "3 min", "2 h 5 min"]
