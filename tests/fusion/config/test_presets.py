"""Test that the presets have the documented values, and train."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from fastrnn.fusion import DataConfig, ModelConfig, TrainConfig, build
from fastrnn.fusion.config.presets import PRESETS
from fastrnn.fusion.models.summary import note, parameters
from fastrnn.fusion.tasks import Binary

BOTH = ("image", "text")


def article(**options) -> ModelConfig:
    preset = PRESETS["article"]
    size = preset.data["image_size"]
    return ModelConfig(
        **{"modalities": BOTH, "vocabulary": 1000, "image_size": size} | preset.model | options
    )


def step(model: ModelConfig, rows: int) -> torch.nn.Module:
    """Train with Adam on random rows and the preset's options, and check that the loss falls."""
    training = TrainConfig(**PRESETS["article"].train)
    network = build(model)
    size = model.image_size
    batch = {
        "image_frames": torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8),
        "image": torch.arange(rows),
        "text": torch.randint(0, 1000, (rows, 100)),
        "text_lengths": torch.arange(rows) + 99 - rows,
        "label": torch.arange(rows) % 2,
    }
    # A small step follows the gradient. With the preset's rate, the steps of 800,000 weights of a
    # unit may add up to an increase.
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate / 100)
    losses = []
    for _ in range(2):
        loss = Binary(("no", "yes")).loss(network(batch), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    return network


@pytest.mark.parametrize("name", PRESETS)
def test_presets_set_only_existing_fields(name):
    preset = PRESETS[name]
    for values, config in (
        (preset.data, DataConfig),
        (preset.model, ModelConfig),
        (preset.train, TrainConfig),
    ):
        assert set(values) <= {each.name for each in fields(config)}
    DataConfig(**preset.data)
    TrainConfig(**preset.train)


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4)])
def test_the_article_has_the_published_size(cell, gates):
    model = article(cell=cell)
    image = 3 * 3 * 3 * 64 + 64
    text = 1000 * 128 + gates * (2 * 128 * 128 + 2 * 128)
    features = 111 * 111 * 64 + 128
    assert features - 128 == 788_544
    fusion = gates * (64 * features + 64 * 64 + 2 * 64) + 64 + 1
    assert parameters(model) == image + text + fusion
    said = note(model)
    assert f"{image + text + fusion:,} parameters" in said
    assert f"of them in head.rnn.weight_ih_l0 ({64 * gates} × 788,672)" in said
    assert "W_hh never gets a gradient" in said


def test_other_notes():
    assert "gradient" not in note(ModelConfig(modalities=BOTH, vocabulary=9))
    assert "adds logits" in note(ModelConfig(modalities=BOTH, vocabulary=9, fusion="late"))


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_article_trains_on_small_images(cell):
    network = step(article(image_size=18, cell=cell), 4)
    assert network.encoders["image"].features == 64 * 8 * 8
    assert not network.head.rnn.weight_hh_l0.grad.any()


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param("rnn", marks=pytest.mark.slow),
        pytest.param("lstm", marks=pytest.mark.exhaustive),  # 200 million parameters
    ],
)
def test_the_article_trains_at_its_own_size(cell):
    step(article(cell=cell), 2)
