"""Test that the old names of options are accepted, with a warning."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from fastrnn.fusion import ConfigError, ModelConfig, RunConfig, TrainConfig
from fastrnn.fusion.config.parser import from_json
from fastrnn.fusion.config.renamed import (
    RENAMED,
    RenamedOptionWarning,
    accept_old_names,
    renamed,
)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_every_old_name(old, new):
    with pytest.warns(RenamedOptionWarning, match=f"^{old} is now {new};"):
        assert renamed({old: 1, "epochs": 2}) == {new: 1, "epochs": 2}
    assert issubclass(RenamedOptionWarning, FutureWarning)  # Python shows it by default


def test_new_names_do_not_warn(recwarn):
    given = {"learning_rate": 1, "unknown": 2}
    assert renamed(given) == given
    assert not recwarn


def test_only_known_names_are_replaced(recwarn):
    assert renamed({"kind": 1}, {"learning_rate"}) == {"kind": 1}
    assert renamed({"folder": 1}, {"folder", "output_dir"}) == {"folder": 1}
    assert not recwarn


def test_two_names_of_one_option():
    with pytest.raises(ConfigError, match="rate is the old name of learning_rate"):
        renamed({"rate": 1, "learning_rate": 1})
    with pytest.raises(ConfigError, match="out is the old name"), pytest.warns(FutureWarning):
        renamed({"folder": 1, "out": 1})


def test_keyword_arguments():
    @accept_old_names
    def predict(table, *, num_workers=0):
        return table, num_workers

    @accept_old_names
    def fit(table, folder=None, **options):
        return table, folder, options

    assert predict(1, num_workers=2) == (1, 2)
    with pytest.warns(RenamedOptionWarning, match="workers is now num_workers"):
        assert predict(1, workers=2) == (1, 2)
    with pytest.raises(TypeError, match="rate"):
        predict(1, rate=2)
    with pytest.warns(RenamedOptionWarning, match="rate is now learning_rate"):
        assert fit(1, folder=2, rate=3) == (1, 2, {"learning_rate": 3})


def test_configuration_of_an_earlier_version():
    """The configuration in an old run's config.json."""
    config = RunConfig(
        ModelConfig(("image", "text"), problem_type="multiclass"),
        TrainConfig(batch_size=8, learning_rate=0.5, gradient_accumulation_steps=2),
        ("fusion",),
    )
    old = {new: old for old, new in RENAMED.items()}
    saved = {
        name: {old.get(each, each): item for each, item in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in asdict(config).items()
    }
    assert saved["train"]["rate"] == 0.5
    with pytest.warns(RenamedOptionWarning) as warned:
        assert from_json(RunConfig, saved) == config
    names = {str(each.message).partition(" ")[0] for each in warned}
    assert names == {"kind", "rate", "batch", "clip", "accumulate"}
