"""Test that fields are checked against their types and ranges."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import get_type_hints

import pytest

from fastrnn.fusion import ConfigError, DataConfig, FitConfig, LoaderConfig, TrainConfig
from fastrnn.fusion.config.parser import OneOf, Range, from_json
from fastrnn.fusion.config.schema import ModelConfig, RunConfig
from fastrnn.fusion.data.processor import ProcessorConfig


def model(**options):
    return ModelConfig(("image", "text"), **options)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DataConfig(image_size="64"), "image_size must be an integer; got '64'"),
        (
            lambda: DataConfig(image_size=1_000_000),
            "image_size must be at least 1 and at most 4,096",
        ),
        (lambda: DataConfig(image_size=8.5), "image_size must be an integer; got 8.5"),
        (lambda: DataConfig(image_channels=2), "image_channels must be one of 1, 3; got 2"),
        (lambda: DataConfig(window_ms=0), "window_ms must be greater than 0"),
        (lambda: DataConfig(sample_rate=100, hop_ms=1), "hop_ms is 0 samples at 100 Hz"),
        (lambda: DataConfig(sample_rate=384_000, window_ms=900), "window_ms is 345,600 samples"),
        (lambda: DataConfig(max_seconds=float("nan")), "max_seconds must be greater than 0"),
        (lambda: model(width=-1), "width must be at least 1"),
        (lambda: model(width=10**9), "at most 65,536"),
        (lambda: model(width=True), "width must be an integer; got True"),
        (lambda: model(stream=1), "stream must be true or false; got 1"),
        (lambda: model(conv=(4, -4)), r"conv\[1\] must be at least 1"),
        (lambda: model(conv=(4,) * 17), "conv must be a list of at most 16 items"),
        (lambda: model(conv="4,4"), "conv must be a list; got '4,4'"),
        (lambda: model(encoders=(("image",),)), r"encoders\[0\] must have 2 items"),
        (lambda: model(modality_dropout=1), "less than 1"),
        (lambda: ModelConfig("image"), "modalities must be a list; got 'image'"),
        (lambda: ModelConfig(("video",)), r"modalities\[0\] must be one of audio, image"),
        (
            lambda: TrainConfig(learning_rate=10**400),
            "rate must be a number; got one that is too large",
        ),
        (lambda: TrainConfig(freeze="text"), "freeze must be a list"),
        (lambda: TrainConfig(batch_size=3, gradient_accumulation_steps=2), "must be a multiple"),
        (lambda: LoaderConfig(num_workers=-1), "num_workers must be at least 0"),
        (lambda: LoaderConfig(cache="ram"), "cache must be one of memory, disk, none; got 'ram'"),
        (lambda: LoaderConfig(on_bad_row="stop"), "on_bad_row must be one of error, skip"),
        (lambda: FitConfig(report_to="wandb"), "report_to must be a list; got 'wandb'"),
        (lambda: FitConfig(train={"epochs": -1}), "train.epochs must be at least 0"),
    ],
)
def test_invalid_field_values(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("config", [DataConfig, ModelConfig, TrainConfig, LoaderConfig])
def test_every_number_has_a_range(config):
    """Upper bounds keep an untrusted file from using all memory."""
    types = get_type_hints(config)
    hints = get_type_hints(config, include_extras=True)
    unlimited = [
        name
        for name, kind in types.items()
        if kind in (int, float)
        and not any(isinstance(each, (Range, OneOf)) for each in hints[name].__metadata__)
    ]
    assert unlimited == (["seed"] if config is TrainConfig else [])


def complete():
    return RunConfig(
        model(conv=[4, 8], encoders={"text": "mine"}),
        TrainConfig(max_grad_norm=float("inf"), freeze=["text"]),
        ["fusion", "late"],
        {"image": "photo"},
    )


def processor():
    return ProcessorConfig(
        DataConfig(window_ms=25),
        "multiclass",
        ["image", "text"],
        stream=False,
        labels=["no", "yes", "perhaps"],
        target=[1, 2.5],
        series=[[0, 1]],
    )


def test_json_round_trip():
    again = from_json(RunConfig, json.loads(json.dumps(complete().to_json())))
    assert again == complete()
    assert again.model.conv == (4, 8)
    assert again.model.encoders == (("text", "mine"),)
    assert again.models == ("fusion", "late")
    assert again.train.max_grad_norm == float("inf")
    again = from_json(ProcessorConfig, json.loads(json.dumps(asdict(processor()))))
    assert again == processor()
    assert again.target == (1.0, 2.5)
    assert again.series == ((0.0, 1.0),)
    assert type(again.data.window_ms) is float


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": 3}, "models must be a list; got 3"),
        ({"models": [3]}, r"models\[0\] must be a string; got 3"),
        ({"columns": {"image": 3}}, "columns.image must be a string"),
        ({"train": {"epoch": 3}}, "train has fields unknown to this version: epoch"),
        ({"model": {}}, "model lacks modalities"),
        ({"threshold": 2}, "threshold must be at least 0 and at most 1; got 2"),
        (
            {"train": {"class_weight": [["yes", -1]]}},
            r"class_weight\[0\]\[1\] must be greater than",
        ),
    ],
)
def test_an_untrusted_config(change, said):
    with pytest.raises(ConfigError, match=said):
        from_json(RunConfig, complete().to_json() | change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": 3}, "labels must be a list; got 3"),
        ({"labels": [3]}, r"labels\[0\] must be a string; got 3"),
        ({"data": []}, r"data must be a mapping; got \[\]"),
        ({"data": {"mels": None}}, "data.mels must be an integer; got None"),
        ({"problem_type": "ranking"}, "problem_type must be one of binary"),
        ({"modalities": ["video"]}, r"modalities\[0\] must be one of audio"),
        ({"target": [1]}, r"target must have 2 items; got \[1\]"),
        ({"target": [float("nan"), 1]}, r"target\[0\] must be at least"),
    ],
)
def test_an_untrusted_processor_config(change, said):
    with pytest.raises(ConfigError, match=said):
        from_json(ProcessorConfig, asdict(processor()) | change)


def test_json_that_is_not_an_object():
    for value in ([], None, 3, "text"):
        with pytest.raises(ConfigError, match="the configuration must be a mapping"):
            from_json(RunConfig, value)
