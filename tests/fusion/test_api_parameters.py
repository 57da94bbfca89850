"""The parameters of FusionModel, which follow scikit-learn's conventions."""

from __future__ import annotations

import pytest

from fastrnn.fusion import ConfigError, FusionError, FusionModel
from fastrnn.fusion.config.options import OPTIONS
from fastrnn.fusion.config.presets import PRESETS
from fastrnn.fusion.config.renamed import RENAMED

GIVEN = {"epochs": 3, "conv": (4, 8), "problem_type": "binary", "device": "cpu", "cache": "none"}


def test_parameters_round_trip():
    model = FusionModel(**GIVEN)
    found = model.get_params()
    assert set(OPTIONS) < set(found)
    assert {name: found[name] for name in GIVEN} == GIVEN
    assert found["learning_rate"] == OPTIONS["learning_rate"].default
    other = FusionModel().set_params(**found)
    assert other.get_params() == found
    assert other.set_params(epochs=4) is other
    assert other.get_params() == found | {"epochs": 4}
    assert model.get_params()["epochs"] == 3


def test_parameters_of_a_preset():
    found = FusionModel(preset="article", epochs=3).get_params()
    assert found["preset"] == "article"
    assert found["epochs"] == 3
    assert found["fusion"] == PRESETS["article"].model["fusion"] == "concat"
    assert FusionModel(**found).get_params() == found


def test_clone_of_scikit_learn():
    base = pytest.importorskip("sklearn.base")
    model = FusionModel(**GIVEN)
    copy = base.clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "network")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, "did you mean epochs?"),
        ({"output": "run"}, "did you mean output_dir?"),
        ({"xyzzy": 3}, "the options are "),
        ({"preset": "articles"}, "preset must be one of default, article"),
        ({"epochs": "3"}, "epochs must be an integer; got '3'"),
        ({"epochs": True}, "epochs must be an integer"),
        ({"hop_ms": 0}, "hop_ms must be greater than 0"),
        ({"window_ms": float("nan")}, "window_ms must be greater than 0"),
        ({"sample_rate": 1}, "window_ms is 0 samples at 1 Hz"),
        ({"conv": (2.5,)}, "conv must be a list such as 32,64; got (2.5,)"),
        ({"cache": "tape"}, "cache must be one of memory, disk, none"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_invalid_options(values, said):
    with pytest.raises(ConfigError) as caught:
        FusionModel(**values)
    assert said in str(caught.value)
    model = FusionModel(seed=5)
    before = model.get_params()
    with pytest.raises(ConfigError):
        model.set_params(**values)
    assert model.get_params() == before


@pytest.mark.parametrize(
    ("options", "columns", "said"),
    [
        ({"problem_type": "numbers"}, {}, "problem_type must be one of"),
        ({}, {"image": "photo"}, "there is no column 'photo'"),
        ({}, {"picture": "image"}, "unknown role 'picture'"),
    ],
)
def test_invalid_arguments_of_a_fit(rows, save, options, columns, said):
    with pytest.raises(FusionError) as caught:
        FusionModel(**options).fit(save(rows), **columns)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "value"),
    [("kind", "binary"), ("workers", 2), ("folder", "run"), ("rate", 0.5), ("batch", 4)],
)
def test_an_old_name_warns(old, value):
    with pytest.warns(FutureWarning, match=f"^{old} is now {RENAMED[old]};"):
        model = FusionModel(**{old: value})
    assert model.get_params()[RENAMED[old]] == value
    with pytest.warns(FutureWarning, match=f"^{old} is now"):
        model.set_params(**{old: value})
    with pytest.raises(ConfigError, match=f"{old} is the old name of {RENAMED[old]}"):
        FusionModel(**{old: value, RENAMED[old]: value})


def test_no_reports():
    assert FusionModel(report_to=None).fit_config() == FusionModel().fit_config()
