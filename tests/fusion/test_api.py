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

from fastrnn.fusion import ConfigError, FusionError, FusionModel

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


def fit(data, **values):
    return FusionModel.fit(data, **TINY | values)


@pytest.fixture
def model(rows, save):
    return fit(save(rows))


def test_fit_evaluate_predict(rows, save):
    model = fit(save(rows, "csv"))
    scores = model.evaluate()["scores"]
    answers = model.predict(save([{k: v for k, v in row.items() if k != "label"} for row in rows]))
    assert 0 <= scores["accuracy"]["value"] <= 1
    assert list(answers.columns) == ["label", "p(no)", "p(yes)"]
    assert len(answers) == 20
    assert answers["label"].isin(["no", "yes"]).all()
    assert ((answers["p(yes)"] > 0.5) == (answers["label"] == "yes")).all()


def test_dataframe_index_is_kept(rows, tmp_path):
    frame = pd.DataFrame(rows, index=[f"case {n // 2}" for n in range(20)]).rename(
        columns={"label": "found", "image": "slide"}
    )
    model = fit(frame, label="found", image="slide", root=tmp_path, fusion="concat", seed=3)
    assert model.run.columns["image"] == "slide"
    assert model.run.model.fusion == "concat"
    assert model.run.train.seed == 3
    answers = model.predict(frame.drop(columns="found"), root=tmp_path)
    assert answers.index.equals(frame.index)
    evaluated = model.evaluate(frame, root=tmp_path)
    right = (answers["label"] == frame["found"]).mean()
    assert evaluated["rows"] == 20
    assert evaluated["scores"]["accuracy"]["value"] == pytest.approx(right)


def test_bad_rows_have_an_error(model, rows, tmp_path):
    frame = pd.DataFrame(rows)
    frame.loc[4, "image"] = "gone.png"
    with pytest.raises(FusionError, match=r"row 4.*gone\.png"):
        model.predict(frame, root=tmp_path)
    answers = model.predict(frame, root=tmp_path, on_bad_row="skip")
    assert answers["error"].notna().tolist() == [number == 4 for number in range(20)]
    assert "gone.png" in answers["error"][4]
    assert pd.isna(answers["label"][4])
    sound = model.predict(frame.drop(index=4), root=tmp_path, on_bad_row="skip")
    assert sound["error"].isna().all()
    assert sound["label"].tolist() == answers["label"].drop(index=4).tolist()


def test_regression_predicts_in_label_units(rows, save, tmp_path):
    frame = pd.DataFrame([row | {"label": 1000 + n / 2} for n, row in enumerate(rows)])
    model = fit(frame, problem_type="regression", root=tmp_path)
    answers = model.predict(frame, root=tmp_path)
    assert list(answers.columns) == ["value"]
    assert answers["value"].between(950, 1060).all()


def test_save_and_load(model, rows, save, tmp_path):
    path = save(rows)
    expected = model.predict(path)
    model.save(tmp_path / "saved")
    names = {each.name for each in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert "fastrnn" in (tmp_path / "saved" / "README.md").read_text()
    loaded = FusionModel.from_pretrained(tmp_path / "saved")
    assert loaded.run == replace(model.run, manifest="", root="")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    pd.testing.assert_frame_equal(loaded.predict(path), expected)
    with pytest.raises(ConfigError, match="give rows with labels"):
        loaded.evaluate()

    kept = fit(path, folder=tmp_path / "run")
    pd.testing.assert_frame_equal(
        FusionModel.from_pretrained(tmp_path / "run").predict(path), kept.predict(path)
    )
    with pytest.raises(ConfigError, match="already"):
        fit(path, folder=tmp_path / "run")


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
    assert not [each for each in shared.rglob("*") if each.suffix in (".pt", ".bin", ".pkl")]

    asked = {}

    def download(repo_id, **how):
        asked.update(how, repo_id=repo_id)
        return str(shared)

    monkeypatch.setattr("fastrnn.fusion.api.snapshot_download", download)
    monkeypatch.setattr("fastrnn.fusion.api.HfApi", Hub)
    loaded = FusionModel.from_pretrained("someone/dogs", revision="main")
    assert asked["repo_id"] == "someone/dogs"
    assert asked["revision"] == "main"
    assert set(asked["allow_patterns"]) == {"config.json", "model.safetensors", "tokenizer.json"}
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
    monkeypatch.setattr("fastrnn.fusion.api.HfApi", NoHub)
    monkeypatch.setattr("fastrnn.fusion.api.snapshot_download", offline)
    monkeypatch.setattr(NoHub, "asked", [])
    remedy = r"\(no network\); check the name and the network" if times else "give the folder of a"
    with pytest.raises(ConfigError, match=remedy):
        FusionModel.from_pretrained(name)
    assert NoHub.asked == ["someone/pets"] * times


def test_cached_download_is_used_offline(model, tmp_path, monkeypatch):
    model.save(tmp_path / "cached")
    monkeypatch.setattr("fastrnn.fusion.api.HfApi", NoHub)
    monkeypatch.setattr("fastrnn.fusion.api.snapshot_download", lambda *a, **k: tmp_path / "cached")
    assert FusionModel.from_pretrained("someone/pets").run.labels == model.run.labels


def test_explain(model, tmp_path):
    found = model.explain(folder=tmp_path / "why", examples=1)
    assert {each["modality"] for each in found["ablation"]} == {"audio", "image", "text"}
    assert json.loads((tmp_path / "why" / "explanation.json").read_text()) == found
    assert list((tmp_path / "why" / "pictures").glob("*.png"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, "did you mean epochs?"),
        ({"preset": "articles"}, "preset must be one of default, article"),
        ({"problem_type": "numbers"}, "problem_type must be one of"),
        ({"image": "photo"}, "photo"),
        ({"epochs": "3"}, "epochs must be an integer; got '3'"),
        ({"epochs": True}, "epochs must be an integer"),
        ({"hop_ms": 0}, "hop_ms must be greater than 0"),
        ({"window_ms": float("nan")}, "window_ms must be greater than 0"),
        ({"sample_rate": 1}, "window_ms is 0 samples at 1 Hz"),
        ({"conv": (2.5,)}, "conv must be a list such as 32,64; got (2.5,)"),
    ],
)
def test_invalid_options(rows, save, values, said):
    with pytest.raises(FusionError) as caught:
        fit(save(rows), **values)
    assert said in str(caught.value)
