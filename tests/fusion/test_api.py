"""FusionModel: fit, predict, evaluate, save, and share without pickle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import huggingface_hub.hub_mixin
import pandas as pd
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from fastrnn.fusion import ConfigError, FusionError, FusionModel, ManifestError, checkpoint

TINY = {
    "epochs": 1,
    "batch_size": 8,
    "width": 16,
    "hidden": 16,
    "conv": (4, 8),
    "grid": 2,
    "image_size": 8,
    "sample_rate": 8000,
    "mels": 12,
    "vocabulary": 256,
}


COLUMNS = ("label", "image", "audio", "text", "root", "callbacks")


def fit(data, **values):
    """Fit a tiny model; `values` are options of the model, or arguments of `fit`."""
    how = {name: values.pop(name) for name in COLUMNS if name in values}
    return FusionModel(**TINY | values).fit(data, **how)


def unlabelled(rows):
    return [{name: each for name, each in row.items() if name != "label"} for row in rows]


@pytest.fixture
def model(rows, save):
    return fit(save(rows))


def test_fit_evaluate_predict(rows, save):
    model = fit(save(rows, "csv"))
    scores = model.evaluate()["scores"]
    path = save(unlabelled(rows))
    table = model.predict_table(path)
    assert 0 <= scores["accuracy"]["value"] <= 1
    assert model.score() == pytest.approx(scores["accuracy"]["value"], abs=1e-6)
    assert list(table.columns) == ["label", "p(no)", "p(yes)"]
    assert len(table) == 20
    assert table["label"].isin(["no", "yes"]).all()
    assert ((table["p(yes)"] > 0.5) == (table["label"] == "yes")).all()
    pd.testing.assert_series_equal(model.predict(path), table["label"])
    chances = model.predict_proba(path)
    assert tuple(chances.columns) == model.classes_ == ("no", "yes")
    assert chances["yes"].tolist() == table["p(yes)"].tolist()
    assert model.predict(path, threshold=0).eq("yes").all()


@pytest.mark.slow
def test_history(model, rows, save):
    longer = fit(save(rows), epochs=2)
    assert [len(each.history_) for each in (model, longer)] == [1, 2]
    assert set(longer.history_[1]) == {"train", "val"}
    assert set(longer.history_[1]["val"]) == {"loss", "accuracy"}


def test_dataframe_index_is_kept(rows, tmp_path):
    frame = pd.DataFrame(rows, index=[f"case {n // 2}" for n in range(20)]).rename(
        columns={"label": "found", "image": "slide"}
    )
    model = fit(frame, label="found", image="slide", root=tmp_path, fusion="concat", seed=3)
    assert model.config.columns["image"] == "slide"
    assert model.config.model.fusion == "concat"
    assert model.config.train.seed == 3
    inputs = frame.drop(columns="found")
    found = model.predict(inputs, root=tmp_path)
    assert found.index.equals(frame.index)
    assert model.predict_proba(inputs, root=tmp_path).index.equals(frame.index)
    assert model.predict(inputs[:0], root=tmp_path).empty
    evaluated = model.evaluate(frame, root=tmp_path)
    right = (found == frame["found"]).mean()
    assert evaluated["rows"] == 20
    assert evaluated["scores"]["accuracy"]["value"] == pytest.approx(right)
    assert model.score(frame, root=tmp_path) == pytest.approx(right)


def test_bad_rows_have_an_error(model, rows, tmp_path):
    frame = pd.DataFrame(rows)
    frame.loc[4, "image"] = "gone.png"
    with pytest.raises(FusionError, match=r"row 4.*gone\.png"):
        model.predict(frame, root=tmp_path)
    table = model.predict_table(frame, root=tmp_path, on_bad_row="skip")
    assert table["error"].notna().tolist() == [number == 4 for number in range(20)]
    assert "gone.png" in table["error"][4]
    assert pd.isna(table["label"][4])
    chances = model.predict_proba(frame, root=tmp_path, on_bad_row="skip")
    assert chances.isna().all(axis=1).tolist() == table["error"].notna().tolist()
    sound = model.predict_table(frame.drop(index=4), root=tmp_path, on_bad_row="skip")
    assert sound["error"].isna().all()
    assert sound["label"].tolist() == table["label"].drop(index=4).tolist()
    assert model.evaluate(frame, root=tmp_path, on_bad_row="skip")["rows"] == 19


def test_regression_predicts_in_label_units(rows, tmp_path):
    frame = pd.DataFrame([row | {"label": 1000 + n / 2} for n, row in enumerate(rows)])
    model = fit(frame, problem_type="regression", root=tmp_path)
    assert model.predict(frame, root=tmp_path).between(950, 1060).all()
    assert list(model.predict_table(frame, root=tmp_path).columns) == ["value"]
    assert model.classes_ == ()
    assert set(model.history_[0]["train"]) == {"loss", "r2"}
    with pytest.raises(ConfigError, match="a regression has no probabilities; use predict"):
        model.predict_proba(frame, root=tmp_path)


def test_multilabel_predicts_lists(rows, tmp_path):
    frame = pd.DataFrame([row | {"label": ["a", "b", "a|b"][n % 3]} for n, row in enumerate(rows)])
    model = fit(frame, root=tmp_path)
    chances = model.predict_proba(frame, root=tmp_path)
    assert tuple(chances.columns) == model.classes_ == ("a", "b")
    for names, (_, chance) in zip(
        model.predict(frame, root=tmp_path), chances.iterrows(), strict=True
    ):
        assert names == [name for name in model.classes_ if chance[name] > 0.5]


def test_steps_predict_a_list_with_an_item_per_step(streams, tmp_path):
    frame = pd.DataFrame(streams)
    model = fit(frame, root=tmp_path)
    lengths = [len(row["image"]) for row in streams]
    labels, chances = (each(frame, root=tmp_path) for each in (model.predict, model.predict_proba))
    assert tuple(chances.columns) == model.classes_ == ("0", "1", "2")
    assert [len(each) for each in labels] == lengths
    for name in model.classes_:
        assert [len(each) for each in chances[name]] == lengths
    for row, names in enumerate(labels):
        for step, name in enumerate(names):
            each = {label: chances[label][row][step] for label in model.classes_}
            assert name == max(each, key=each.get)
            assert sum(each.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("how", [{"batch_size": 3}, {"num_workers": 2}, {"device": "cpu"}])
def test_how_rows_are_passed_does_not_change_predictions(model, rows, save, how):
    path = save(rows)
    expected, found = model.predict_proba(path), model.predict_proba(path, **how)
    # A batch pads to its longest row, which may change the order of sums: 100 roundings.
    pd.testing.assert_frame_equal(found, expected, rtol=100 * 2**-24, atol=0)


class Stop:
    """A callback that stops after an epoch and records what it sees."""

    def __init__(self, epoch):
        self.epoch, self.seen = epoch, []

    def on_epoch_end(self, metrics):
        self.seen.append(metrics)
        return metrics["epoch"] == self.epoch


def test_an_unusable_device(model, rows, save):
    with pytest.raises(ConfigError, match="the device 'nonsense' cannot be used"):
        model.predict(save(rows), device="nonsense")
    with pytest.raises(ConfigError, match="the device 'nonsense' cannot be used"):
        model.set_params(device="nonsense").evaluate()


def test_a_callback_stops_the_fit(rows, save):
    callback = Stop(2)
    model = fit(save(rows), epochs=5, callbacks=[callback])
    assert len(model.history_) == 2
    assert [each["epoch"] for each in callback.seen] == [1, 2]
    assert [{name: each[name] for name in ("train", "val")} for each in callback.seen] == (
        model.history_
    )


def test_save_and_load(model, rows, save, tmp_path):
    path = save(rows)
    expected = model.predict_table(path)
    model.save(tmp_path / "saved")
    names = {each.name for each in (tmp_path / "saved").iterdir()}
    assert names == {*checkpoint.FILES, "README.md"}
    assert "fastrnn" in (tmp_path / "saved" / "README.md").read_text()
    loaded = FusionModel.from_pretrained(tmp_path / "saved")
    assert loaded.config == replace(model.config, manifest="", root="")
    assert loaded.classes_ == model.classes_
    assert loaded.history_ == []
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    pd.testing.assert_frame_equal(loaded.predict_table(path), expected)
    with pytest.raises(ConfigError, match="give rows with labels"):
        loaded.evaluate()

    kept = fit(path, output_dir=tmp_path / "run")
    pd.testing.assert_frame_equal(
        FusionModel.from_pretrained(tmp_path / "run").predict_table(path), kept.predict_table(path)
    )
    with pytest.raises(ConfigError, match="already"):
        fit(path, output_dir=tmp_path / "run")


@pytest.mark.parametrize("name", ["predict", "predict_proba", "evaluate", "score", "explain"])
def test_a_model_must_be_trained_first(name):
    with pytest.raises(ConfigError, match="the model is not trained; call fit"):
        getattr(FusionModel(), name)("rows.csv")


def test_an_untrained_model_is_not_saved(tmp_path):
    with pytest.raises(ConfigError, match="the model is not trained; call fit"):
        FusionModel().save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="the model is not trained; call fit"):
        FusionModel().classes_  # noqa: B018


class Hub:
    """A stub of the Hub that stores uploads in a folder."""

    folder: Path

    def __init__(self, **_):
        pass

    def create_repo(self, repo_id, **_):
        return type("Repository", (), {"repo_id": repo_id})

    def model_info(self, repo_id, **_):
        assert (self.folder / repo_id).is_dir()

    def upload_folder(self, folder_path, repo_id, **_):
        shutil.copytree(folder_path, self.folder / repo_id)
        return f"https://hub/{repo_id}"


def test_push_to_hub_and_load(model, rows, save, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "folder", tmp_path / "hub", raising=False)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    assert model.push_to_hub("someone/dogs") == "https://hub/someone/dogs"
    shared = tmp_path / "hub" / "someone" / "dogs"
    assert {each.name for each in shared.iterdir()} == {*checkpoint.FILES, "README.md"}
    assert "processor_config.json" in checkpoint.FILES

    asked = {}

    def download(repo_id, **how):
        asked.update(how, repo_id=repo_id)
        return str(shared)

    monkeypatch.setattr("fastrnn.fusion.hub.snapshot_download", download)
    monkeypatch.setattr("fastrnn.fusion.hub.HfApi", Hub)
    loaded = FusionModel.from_pretrained("someone/dogs", revision="main")
    assert asked["repo_id"] == "someone/dogs"
    assert asked["revision"] == "main"
    assert set(asked["allow_patterns"]) == {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer-*.json",
    }
    for one, other in zip(model.network.parameters(), loaded.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["no/such/folder", "someone/nothing"])
def test_loading_a_missing_model_fails(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        FusionModel.from_pretrained(name, local_files_only=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError):
        FusionModel.from_pretrained("other")


class NoHub:
    """A stub of an unreachable Hub that records the requests."""

    asked: ClassVar[list[str]] = []

    def model_info(self, repo_id, *, timeout, **_):
        assert timeout <= 10
        self.asked.append(repo_id)
        raise ConnectionError("no network")


def offline(repo_id, *, local_files_only=False, **_):
    assert local_files_only
    raise LocalEntryNotFoundError("not downloaded before")


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("models/mine/last", 0),
        ("./mine", 0),
        ("~/mine", 0),
        ("../mine", 0),
        ("/no/such", 0),
        ("mine", 0),
        ("runs/pets ", 0),
        (Path("someone/pets"), 0),
        ("someone/pets", 1),
    ],
)
def test_hub_is_requested_at_most_once(name, times, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastrnn.fusion.hub.HfApi", NoHub)
    monkeypatch.setattr("fastrnn.fusion.hub.snapshot_download", offline)
    monkeypatch.setattr(NoHub, "asked", [])
    remedy = r"\(no network\); check the name and the network" if times else "give the folder of a"
    with pytest.raises(ConfigError, match=remedy):
        FusionModel.from_pretrained(name)
    assert NoHub.asked == ["someone/pets"] * times


def test_cached_download_is_used_offline(model, tmp_path, monkeypatch):
    model.save(tmp_path / "cached")
    monkeypatch.setattr("fastrnn.fusion.hub.HfApi", NoHub)
    monkeypatch.setattr("fastrnn.fusion.hub.snapshot_download", lambda *a, **k: tmp_path / "cached")
    assert FusionModel.from_pretrained("someone/pets").classes_ == model.classes_


@pytest.mark.slow
def test_explain(model, tmp_path):
    found = model.explain(output_dir=tmp_path / "why", examples=1)
    assert {each["modality"] for each in found["ablation"]} == {"audio", "image", "text"}
    assert json.loads((tmp_path / "why" / "explanation.json").read_text()) == found
    assert list((tmp_path / "why" / "pictures").glob("*.png"))


def test_explain_without_a_folder(model, rows, tmp_path):
    frame = pd.DataFrame(rows)
    found = model.explain(frame, root=tmp_path, examples=0)
    assert found["rows"] == 20
    assert not (tmp_path / "pictures").exists()


def test_an_explanation_lists_skipped_rows(model, rows, tmp_path):
    frame = pd.DataFrame(rows)
    frame.loc[4, "image"] = "gone.png"
    frame.loc[7, ["image", "audio", "text"]] = ""
    found = model.explain(frame, root=tmp_path, on_bad_row="skip", examples=0)
    assert found["rows"] == 18
    assert {each["where"] for each in found["skipped"]} == {"row 4", "row 7"}


def test_columns_may_be_named_by_numbers_and_an_index():
    frame = pd.DataFrame({1: [0.5, 2.5], "label": ["a", "b"]})
    with pytest.raises(ManifestError, match="there is no column '0'"):
        FusionModel().fit(frame, label=0)
    with pytest.raises(ManifestError, match="'label' is named for both label and tabular"):
        FusionModel().fit(frame, label="label", tabular=frame.columns)
