"""Test options given by name: as keys of a YAML file, and as keyword arguments."""

from __future__ import annotations

from dataclasses import fields

import pytest

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    FitConfig,
    LoaderConfig,
    ModelConfig,
    TrainConfig,
)
from fastrnn.fusion.config import options, options_file
from fastrnn.fusion.config.renamed import RenamedOptionWarning
from fastrnn.fusion.config.schema import FUSIONS

# Fields that follow from the rows and labels, or from the data options (image_size, ...).
DECIDED = {"modalities", "problem_type", "outputs", "stream", "variables", "missing"}
DECIDED |= {"series_variables", "numbers", "categories"}
DECIDED |= {"pretrained"}  # from the folders of the encoders


def test_every_other_field_is_an_option():
    names = {
        each.name
        for config in (DataConfig, ModelConfig, TrainConfig, LoaderConfig)
        for each in fields(config)
    }
    assert set(options.OPTIONS) == names - DECIDED


def test_options_follow_from_the_fields():
    side, fusion, conv = (options.OPTIONS[name] for name in ("image_size", "fusion", "conv"))
    assert (side.config, side.type, side.default) == (DataConfig, int, 64)
    assert (side.minimum, side.maximum) == (8, 4096)
    assert fusion.choices == ("auto", *FUSIONS)
    assert fusion.default == "auto"
    assert conv.is_list
    assert conv.default == (32, 64)


def test_old_names_are_accepted_with_a_warning():
    with pytest.warns(RenamedOptionWarning, match="rate is now learning_rate"):
        config = options.fit_config({"rate": 0.5, "epochs": 2})
    assert config == FitConfig(train=TrainConfig(learning_rate=0.5, epochs=2))


def test_old_and_new_name_together():
    with pytest.raises(ConfigError, match="batch is the old name of batch_size, which is given"):
        options.fit_config({"batch": 8, "batch_size": 16})


def test_options_are_sorted_into_sections():
    config = options.fit_config(
        {
            "mels": 12,
            "conv": "4, 8",
            "fusion": "auto",
            "epochs": 3,
            "freeze": ["text"],
            "cell": "gru",
            "cache": "disk",
        },
        baselines=False,
        report_to=["tensorboard"],
    )
    assert config == FitConfig(
        DataConfig(mels=12),
        {"conv": (4, 8), "cell": "gru"},
        TrainConfig(epochs=3, freeze=("text",)),
        LoaderConfig(cache="disk"),
        baselines=False,
        report_to=("tensorboard",),
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 3}, "'epoch' is not an option; did you mean epochs?"),
        ({"colour": 3}, "'colour' is not an option; the options are augment_images, balance, "),
        ({"conv": "4,x"}, "conv must be a list such as 32,64; got '4,x'"),
        ({"conv": 4}, "conv must be a list such as 32,64; got 4"),
        ({"encoders": "image"}, "encoders must be a list such as image=NAME; got 'image'"),
        ({"epochs": -1}, "at least 0"),
        ({"schedule": "twice"}, "one-cycle, cosine, linear, constant"),
    ],
)
def test_invalid_options_raise(given, said):
    with pytest.raises(ConfigError) as caught:
        options.fit_config(given)
    assert said in str(caught.value)


def test_a_file_is_converted_to_flags(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(
        "image-size: 16\nlearning-rate: 1e-3\nconv: [4, 8]\nfreeze: text,fusion\noutput-dir:\n"
        "encoders: {image: mine, text: yours}\nbaselines: false\ncell: none\n"
    )
    known = {*options.OPTIONS, "output_dir", "baselines"}
    assert options_file.read(path, known) == {
        "image_size": "16",
        "learning_rate": "1e-3",
        "conv": "4,8",
        "freeze": "text,fusion",
        "encoders": "image=mine,text=yours",
        "baselines": "False",
        "cell": "none",
    }
    path.write_text("")
    assert options_file.read(path, known) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epocs: 3\n", "'epocs' is not an option; did you mean epochs?"),
        ("- 3\n", "not a mapping"),
        ("epochs: [3\n", "not YAML"),
        ("epochs: !!python/object/apply:os.system ['true']\n", "not YAML"),
    ],
)
def test_errors_in_a_file_name_the_file(tmp_path, text, said):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        options_file.read(path, options.OPTIONS)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_old_names_in_a_file(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("batch: 16\nworkers: 2\n")
    with pytest.warns(RenamedOptionWarning) as warned:
        assert options_file.read(path, options.OPTIONS) == {
            "batch_size": "16",
            "num_workers": "2",
        }
    assert [str(each.message).partition(";")[0] for each in warned] == [
        "batch is now batch_size",
        "workers is now num_workers",
    ]
    path.write_text("batch: 16\nbatch-size: 16\n")
    with pytest.raises(ConfigError, match="batch is the old name"):
        options_file.read(path, options.OPTIONS)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="give a YAML file"):
        options_file.read(tmp_path / "gone.yaml", options.OPTIONS)


@pytest.mark.parametrize(
    "value", ["image=a,text=b", {"image": "a", "text": "b"}, [("image", "a"), ("text", "b")]]
)
def test_encoders_are_pairs(value):
    config = options.fit_config({"encoders": value})
    assert config.model == {"encoders": (("image", "a"), ("text", "b"))}


def test_yaml_round_trip(tmp_path):
    path = tmp_path / "options.yaml"
    options_file.write(
        path,
        {
            "manifest": tmp_path,
            "conv": "4,8",
            "encoders": "image=mine",
            "freeze": "",
            "output_dir": None,
        },
    )
    assert options_file.read(path, {*options.OPTIONS, "manifest", "output_dir"}) == {
        "manifest": str(tmp_path),
        "conv": "4,8",
        "encoders": "image=mine",
        "freeze": "",
    }
