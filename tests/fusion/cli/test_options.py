"""Test options given by name: as flags, as keys of a YAML file, and as keyword arguments."""

from __future__ import annotations

from dataclasses import fields

import pytest

from fastrnn.fusion import ConfigError, DataConfig, ModelConfig, TrainConfig
from fastrnn.fusion.config import options

# Fields that follow from the rows and labels, or from the data options (image_size, ...).
DECIDED = {"modalities", "problem_type", "outputs", "stream", "variables", "missing"}


def test_every_other_field_is_an_option():
    names = {
        each.name
        for problem_type in (DataConfig, ModelConfig, TrainConfig)
        for each in fields(problem_type)
    }
    assert set(options.NAMES) == names - DECIDED


def test_options_are_sorted_into_sections():
    data, model, training = options.sections(
        {
            "mels": 12,
            "conv": "4, 8",
            "fusion": "auto",
            "epochs": 3,
            "freeze": ["text"],
            "cell": "gru",
        }
    )
    assert data == DataConfig(mels=12)
    assert model == {"conv": (4, 8), "cell": "gru"}
    assert training == TrainConfig(epochs=3, freeze=("text",))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 3}, "'epoch' is not an option; did you mean epochs?"),
        ({"colour": 3}, "'colour' is not an option; the options are balance, "),
        ({"conv": "4,x"}, "conv must be a list such as 32,64; got '4,x'"),
        ({"conv": 4}, "conv must be a list such as 32,64; got 4"),
        ({"encoders": "image"}, "encoders must be a list such as image=NAME; got 'image'"),
        ({"epochs": 0}, "at least 1"),
        ({"schedule": "twice"}, "one-cycle, constant"),
    ],
)
def test_invalid_options_raise(given, said):
    with pytest.raises(ConfigError) as caught:
        options.sections(given)
    assert said in str(caught.value)


def test_a_file_is_converted_to_flags(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(
        "image-size: 16\nlearning-rate: 1e-3\nconv: [4, 8]\nfreeze: text,fusion\nout:\n"
        "encoders: {image: mine, text: yours}\nbaselines: false\ncell: none\n"
    )
    known = {*options.NAMES, "out", "baselines"}
    assert options.read_yaml(path, known) == {
        "image_size": "16",
        "learning_rate": "1e-3",
        "conv": "4,8",
        "freeze": "text,fusion",
        "encoders": "image=mine,text=yours",
        "baselines": "False",
        "cell": "none",
    }
    path.write_text("")
    assert options.read_yaml(path, known) == {}


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
        options.read_yaml(path, options.NAMES)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="give a YAML file"):
        options.read_yaml(tmp_path / "gone.yaml", options.NAMES)


@pytest.mark.parametrize(
    "value", ["image=a,text=b", {"image": "a", "text": "b"}, [("image", "a"), ("text", "b")]]
)
def test_encoders_are_pairs(value):
    assert options.sections({"encoders": value})[1] == {"encoders": (("image", "a"), ("text", "b"))}


def test_yaml_round_trip(tmp_path):
    path = tmp_path / "options.yaml"
    options.write_yaml(
        path,
        {"manifest": tmp_path, "conv": "4,8", "encoders": "image=mine", "freeze": "", "out": None},
    )
    assert options.read_yaml(path, {*options.NAMES, "manifest", "out"}) == {
        "manifest": str(tmp_path),
        "conv": "4,8",
        "encoders": "image=mine",
        "freeze": "",
    }
