"""Test the optimizer and its schedules against torch's own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR

from fastrnn.fusion import ConfigError, TrainConfig, build
from fastrnn.fusion.models.pretrained import PretrainedEncoder
from fastrnn.fusion.training import trainer
from fastrnn.fusion.training.optimization import make_optimizer

from ..synthetic import config
from .conftest import TRAINING, content, quick, stopped_at

WARM = replace(TRAINING, epochs=3, schedule="cosine", warmup_steps=2)


def rates(training: TrainConfig, steps: int) -> list[float]:
    """Return the learning rate of every step."""
    optimizer, schedule = make_optimizer(torch.nn.Linear(1, 1), training, steps)
    found = []
    for _ in range(training.epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        assert {group["lr"] for group in optimizer.param_groups} == {found[-1]}
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


@pytest.mark.slow
def test_without_weight_decay_it_is_adam_bit_for_bit(manifest, tmp_path, monkeypatch):
    training = replace(TRAINING, weight_decay=0.0)
    content_now = content(quick(manifest, tmp_path / "adamw", training).folder)

    def adam(network, training, steps):
        optimizer = torch.optim.Adam(network.parameters(), training.learning_rate)
        total = training.epochs * steps
        return optimizer, OneCycleLR(optimizer, training.learning_rate, total_steps=total)

    monkeypatch.setattr(trainer, "make_optimizer", adam)
    assert content(quick(manifest, tmp_path / "adam", training).folder) == content_now


class Pretrained(PretrainedEncoder):
    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        layers = {"block": torch.nn.Linear(2, 2), "lora_A": torch.nn.Linear(2, 2, bias=False)}
        self.backbone = torch.nn.ModuleDict(layers)
        self.backbone["frozen"] = torch.nn.Linear(2, 2).requires_grad_(False)

    def encode(self, batch):
        raise NotImplementedError


def test_pretrained_weights_have_their_own_rate_and_decay():
    """Adapters (lora_) are new, and so is the backbone of a custom encoder.

    The schedule scales both rates alike.
    """
    network = torch.nn.ModuleDict({"encoder": Pretrained(), "head": torch.nn.Linear(2, 1)})
    network["own"] = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 1, bias=False)})
    for schedule in ("one-cycle", "linear"):
        training = TrainConfig(
            epochs=1, schedule=schedule, learning_rate=0.5, pretrained_learning_rate=0.125
        )
        optimizer, scheduler = make_optimizer(network, training, 10)
        name_of = {each: name for name, each in network.named_parameters()}
        found = [
            ({name_of[each] for each in group["params"]}, group["weight_decay"])
            for group in optimizer.param_groups
        ]
        backbone = "encoder.backbone"
        assert found == [
            (
                {"head.weight", "own.backbone.weight", f"{backbone}.lora_A.weight"},
                training.weight_decay,
            ),
            ({"head.bias"}, 0.0),
            ({f"{backbone}.block.weight"}, training.weight_decay),
            ({f"{backbone}.block.bias"}, 0.0),
        ]
        for _ in range(9):
            new, _, slow, _ = (group["lr"] for group in optimizer.param_groups)
            assert slow == pytest.approx(new / 4)
            optimizer.step()
            scheduler.step()


def test_vectors_do_not_decay():
    network = build(
        config(
            missing=("audio", "text"), modalities=("tabular", "audio", "text"),
            numbers=2, categories=(3,),
        )
    )  # fmt: skip
    optimizer, _ = make_optimizer(network, TrainConfig(epochs=1, weight_decay=0.3), 5)
    decay = {
        id(each): group["weight_decay"]
        for group in optimizer.param_groups
        for each in group["params"]
    }
    norms = [each for each in network.modules() if isinstance(each, torch.nn.LayerNorm)]
    gains = {id(each) for norm in norms for each in norm.parameters()}
    named = dict(network.named_parameters())
    assert gains
    assert len(decay) == len(named)
    for name, each in named.items():
        vector = "bias" in name or id(each) in gains or ".missing" in name
        assert decay[id(each)] == (0 if vector else 0.3), name


def test_decay_shrinks_weights_apart_from_their_gradient():
    network = torch.nn.Linear(3, 2)
    before = network.weight.detach().clone()
    training = TrainConfig(1, learning_rate=0.1, weight_decay=0.5, schedule="constant")
    optimizer, _ = make_optimizer(network, training, 5)
    network(torch.zeros(1, 3)).sum().backward()  # the weight's gradient is 0
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before * (1 - 0.1 * 0.5))


def test_schedules_without_warm_up_are_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    references = {
        "cosine": lambda: CosineAnnealingLR(optimizer, 12),
        "linear": lambda: LinearLR(optimizer, 1.0, 0.0, 12),
        "constant": lambda: None,
    }
    for name, make in references.items():
        optimizer.param_groups[0].update(lr=0.5, initial_lr=0.5)
        reference, expected = make(), []
        for _ in range(12):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if reference is not None:
                reference.step()
        found = rates(TrainConfig(epochs=3, learning_rate=0.5, schedule=name), 4)
        assert found == pytest.approx(expected), name


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up(schedule):
    training = TrainConfig(epochs=2, learning_rate=0.5, schedule=schedule, warmup_steps=4)
    found = rates(training, 5)
    assert found[:5] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    whole = rates(TrainConfig(epochs=1, learning_rate=0.5, schedule=schedule), 6)
    assert found[4:] == pytest.approx(whole)  # the schedule takes the other six steps
    assert rates(replace(training, warmup_steps=0, warmup_ratio=0.35), 5) == found  # rounded up
    assert math.ceil(0.35 * 10) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    ["cosine", *(pytest.param(x, marks=pytest.mark.exhaustive) for x in ("linear", "constant"))],
)
def test_a_run_resumes_bit_exactly_with_each_schedule(manifest, tmp_path, monkeypatch, schedule):
    training = replace(WARM, schedule=schedule)
    whole = content(quick(manifest, tmp_path / "whole", training).folder)
    with stopped_at(monkeypatch, 5):  # in the second epoch
        quick(manifest, tmp_path / "run", training)
    assert content(quick(manifest, tmp_path / "run", training, resume=True).folder) == whole


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"warmup_steps": 3}, "the schedule one-cycle has its own warm-up"),
        ({"schedule": "linear", "warmup_steps": 3, "warmup_ratio": 0.1}, "give one"),
        ({"schedule": "linear", "warmup_ratio": 1.5}, "warmup_ratio must be at least 0 and at"),
    ],
)
def test_invalid_warm_up(options, said):
    with pytest.raises(ConfigError, match=said):
        TrainConfig(**options)


def test_a_warm_up_that_is_too_long_fails_before_the_run_begins(manifest, tmp_path):
    with pytest.raises(ConfigError, match="takes 99 steps, but the training has only 9"):
        quick(manifest, tmp_path / "run", replace(WARM, warmup_steps=99))
    assert not (tmp_path / "run").exists()
