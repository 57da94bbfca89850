"""Test the baselines of scikit-learn against pipelines that are built here from the table."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

from fastrnn.fusion import ConfigError, DataConfig, FitConfig, TrainConfig, fit, read_manifest
from fastrnn.fusion.checkpoint import load_network
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.inference import outputs
from fastrnn.fusion.report import console as tables
from fastrnn.fusion.training import baselines, classical, prepare

from .conftest import QUIET, content

TINY = {"width": 8, "hidden": 8, "fusion": "concat"}
FROZEN = "frozen features, linear head"
MOODS = {"good": ["superb", "lovely", "great"], "bad": ["awful", "poor", "grim"]}
MOODS["odd"] = ["weird", "strange", "quirky"]


@pytest.fixture(autouse=True)
def _one_network(monkeypatch):
    """Train only the main network; the others are not tested here."""
    variants = baselines.variants
    for module in (baselines, prepare):
        monkeypatch.setattr(module, "variants", lambda model, *_: variants(model, False))


def table(problem_type: str, rows: int = 120) -> pd.DataFrame:
    """Return rows with a text and columns that both give the label away; some cells are empty."""
    random = np.random.default_rng(0)
    moods = ["good", "bad"] if problem_type == "binary" else list(MOODS)
    mood = random.choice(moods, rows)
    colour = random.choice(["red", "green", "blue"], rows)
    place = np.array([moods.index(each) for each in mood])
    age = 10.0 * place + random.random(rows)
    words = [f"It is {random.choice(MOODS[each])} {random.choice(['!', 'now'])}" for each in mood]
    label = {
        "binary": mood,
        "multiclass": mood,
        "multilabel": ["|".join(pair) for pair in zip(mood, colour, strict=True)],
        "regression": 50 + 7.0 * place,
    }[problem_type]
    frame = pd.DataFrame(
        {"note": words, "age": age, "colour": colour, "label": label, "mood": mood}
    )
    frame.loc[random.random(rows) < 0.05, "note"] = None
    frame.loc[random.random(rows) < 0.05, "age"] = np.nan
    return frame


def run_of(frame: pd.DataFrame, folder, problem_type: str, **others):
    """Train on a table in a folder; the network hardly learns anything."""
    folder.mkdir(exist_ok=True)
    path = folder / "table.csv"
    frame.drop(columns="mood").to_csv(path, index=False)
    columns = {"text": "note", "tabular": ["age", "colour"], "label": "label"}
    manifest = read_manifest(path, columns, problem_type=problem_type)
    config = FitConfig(DataConfig(vocabulary=256), TINY, TrainConfig(epochs=1, batch_size=64))
    return fit(manifest, folder / "run", config, **{"console": QUIET, **others})


def saved(run, name: str) -> outputs.Baseline:
    (found,) = [each for each in run.classical if each.name == name]
    return found


def words_and_characters():
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5))
    return FeatureUnion([("words", TfidfVectorizer()), ("characters", characters)])


def truth(frame: pd.DataFrame, problem_type: str) -> np.ndarray:
    """Return the labels, for several per row as a column for each, sorted by name."""
    if problem_type == "multilabel":
        return frame["label"].str.get_dummies("|").to_numpy()
    return frame["label"].to_numpy()


def answers(model, x, problem_type: str) -> np.ndarray:
    """Return the outputs in the format of Predictions."""
    if problem_type == "regression":
        return model.predict(x)
    found = model.predict_proba(x)
    return found[:, 1] if problem_type == "binary" else found


def estimator(problem_type: str, classifier, regressor):
    if problem_type == "regression":
        return regressor
    return OneVsRestClassifier(classifier) if problem_type == "multilabel" else classifier


@pytest.mark.parametrize(
    "problem_type",
    [
        "binary",
        pytest.param("multiclass", marks=pytest.mark.slow),
        pytest.param("multilabel", marks=pytest.mark.slow),
        "regression",
    ],
)
def test_outputs_are_those_of_an_independent_pipeline(problem_type, tmp_path):
    frame = table(problem_type)
    run = run_of(frame, tmp_path, problem_type)
    assert [each.name for each in run.classical] == [FROZEN, "tabular boosting", "text TF-IDF"]
    train, val, test = (frame.iloc[run.parts[split]] for split in ("train", "val", "test"))
    y = truth(frame, problem_type)[run.parts["train"]]

    def text_model(strength):
        linear = LogisticRegression(C=strength, max_iter=200)
        head = estimator(problem_type, linear, Ridge(alpha=1 / strength))
        return make_pipeline(words_and_characters(), head).fit(train["note"].fillna(""), y)

    models = {strength: text_model(strength) for strength in (1.0, 10.0, 100.0)}
    wanted = truth(frame, problem_type)[run.parts["val"]]
    measure = r2_score if problem_type == "regression" else accuracy_score
    scores = {
        strength: np.mean(measure(wanted, model.predict(val["note"].fillna(""))))
        for strength, model in models.items()
    }
    found = saved(run, "text TF-IDF")
    assert found.config.C in models
    if problem_type != "multilabel":  # whose score is not the share of rows with all labels right
        assert scores[found.config.C] == max(scores.values())
    for split, rows in (("val", val), ("test", test)):
        expected = answers(models[found.config.C], rows["note"].fillna(""), problem_type)
        # The solver of a sparse ridge regression is iterative.
        np.testing.assert_allclose(found.outputs[split], expected, rtol=1e-5, atol=1e-5)

    def columns(rows):
        codes = rows["colour"].map({"blue": 0, "green": 1, "red": 2})
        return np.stack([rows["age"], codes], axis=1)

    options = {"categorical_features": [1], "early_stopping": False, "random_state": 0}
    trees = estimator(
        problem_type,
        HistGradientBoostingClassifier(**options),
        HistGradientBoostingRegressor(**options),
    ).fit(columns(train), y)
    found = saved(run, "tabular boosting")
    expected = answers(trees, columns(test), problem_type)
    np.testing.assert_allclose(found.outputs["test"], expected, atol=1e-5)
    predictions = found.predictions(run.datasets["test"], "test")
    assert outputs.score(predictions) > 0.85
    if problem_type in ("binary", "multiclass"):
        assert (
            outputs.score(saved(run, "text TF-IDF").predictions(run.datasets["test"], "test"))
            > 0.85
        )


def test_frozen_features(tmp_path):
    run = run_of(table("binary"), tmp_path, "binary")
    network = load_network(run.folder, "fusion")

    def features(split):
        batch = run.datasets[split].batch(range(len(run.datasets[split])))
        with torch.no_grad():
            found = network.encode(batch)
        steps = found["text"]
        if steps.dim() == 3:
            present = batch.get("text_present", torch.ones(len(steps), dtype=torch.bool))
            lengths = torch.where(present, batch["text_lengths"], 1)
            steps = torch.stack(
                [row[:count].mean(0) for row, count in zip(steps, lengths.tolist(), strict=True)]
            )
        return torch.cat([found["tabular"], steps], dim=1).double().numpy()

    found = saved(run, FROZEN)
    assert found.config.C in (0.01, 0.1, 1)
    assert found.config.network
    head = LogisticRegression(C=found.config.C, max_iter=200)
    model = make_pipeline(StandardScaler(), head)
    model.fit(features("train"), run.datasets["train"].labels().numpy())
    expected = model.predict_proba(features("test"))[:, 1]
    np.testing.assert_allclose(found.outputs["test"], expected, atol=1e-4)


def test_texts_without_words(save, tmp_path):
    """Single digits are no words for scikit-learn; their characters decide."""
    path = save([{"text": str(n % 2), "label": n % 2} for n in range(40)])
    config = FitConfig(DataConfig(vocabulary=256), {"width": 8, "hidden": 8}, TrainConfig(epochs=1))
    run = fit(read_manifest(path), tmp_path / "run", config, console=QUIET)
    found = saved(run, "text TF-IDF").predictions(run.datasets["test"], "test")
    assert outputs.score(found) == 1


def test_many_rows_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(classical, "_ROWS", 50)
    run = run_of(table("binary"), tmp_path, "binary")
    assert [each.config.train_rows for each in run.classical] == [50] * 3
    assert classical._thinned(run.datasets["train"])[:3] == [0, 1, 3]


@pytest.mark.slow
def test_resuming_does_not_repeat_them(tmp_path, monkeypatch):
    frame = table("binary")
    whole = run_of(frame, tmp_path / "whole", "binary")
    save, done = outputs.save, []

    def stopping(folder, baseline):
        done.append(baseline.name)
        save(folder, baseline)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_of(frame, tmp_path / "cut", "binary")
    for _ in range(2):  # the second time, the run is complete
        run = run_of(frame, tmp_path / "cut", "binary", resume=True)
        assert done == ["text TF-IDF", "tabular boosting", FROZEN]
        assert [each.name for each in run.classical] == sorted(done)
    folders = (content(each.folder) for each in (run, whole))
    one, other = ({k: v for k, v in each.items() if k != "config.json"} for each in folders)
    assert one == other


@pytest.mark.slow
def test_evaluation_uses_them_on_the_rows_of_the_run(tmp_path):
    frame = table("binary")
    run = run_of(frame, tmp_path, "binary")
    names = {each.name for each in run.classical}
    for split in ("test", "val"):
        found = evaluate_run(run.folder, split=split)
        assert set(found["models"]) == {"fusion", *names}
        assert found["left_out"] == []
        for each in run.classical:
            score = outputs.score(each.predictions(run.datasets[split], split))
            model = found["models"][each.name]
            assert model["scores"]["accuracy"]["value"] == pytest.approx(score, abs=1e-6)
            assert ("threshold" in model) == (split == "test")
    parameters = {name: model["parameters"] for name, model in found["models"].items()}
    assert parameters[FROZEN] == parameters["fusion"] > 0
    assert parameters["text TF-IDF"] is parameters["tabular boosting"] is None
    assert {each["model"] for each in found["comparison"]} == names

    frame.drop(columns="mood").to_csv(tmp_path / "copy.csv", index=False)
    other = evaluate_run(run.folder, tmp_path / "copy.csv")
    frame["note"] = frame["note"].str.upper()
    frame.drop(columns="mood").to_csv(tmp_path / "table.csv", index=False)
    changed = evaluate_run(run.folder)
    for found in (other, changed, evaluate_run(run.folder, split="train")):
        assert set(found["models"]) == {"fusion"}
        assert set(found["left_out"]) == names
        console = Console(file=io.StringIO(), width=200)
        for part in tables.evaluation(found):
            console.print(part)
        assert f"left out: {FROZEN}, tabular boosting, text TF-IDF" in console.file.getvalue()


def test_damaged_outputs(tmp_path):
    run = run_of(table("binary"), tmp_path, "binary")
    place = run.folder / "models" / "text-TF-IDF"
    outputs.save(
        run.folder, outputs.Baseline(saved(run, "text TF-IDF").config, {"test": torch.ones(3)})
    )
    with pytest.raises(ConfigError, match=r"text TF-IDF have the shape \[3\], not \[12\]"):
        evaluate_run(run.folder)
    (place / outputs.OUTPUTS).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"text-TF-IDF/outputs\.safetensors: damaged"):
        evaluate_run(run.folder)
