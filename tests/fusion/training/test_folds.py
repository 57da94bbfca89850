"""Test cross-validation: the folds, the summary, and that finished folds are not repeated."""

from __future__ import annotations

import io
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fastrnn.fusion import ConfigError, FusionModel, ManifestError, load, read_manifest
from fastrnn.fusion.data.groups import linked
from fastrnn.fusion.data.splits import fold_rows
from fastrnn.fusion.evaluation.bootstrap import value
from fastrnn.fusion.evaluation.run_data import run_rows
from fastrnn.fusion.inference.loop import predictions
from fastrnn.fusion.report.console import cross_validation
from fastrnn.fusion.training import baselines, folds

from .conftest import OPTIONS, content, quick, stopped_at


def test_each_row_tests_once(rows, save):
    manifest = read_manifest(
        save([{name: row[name] for name in ("text", "label")} for row in rows])
    )
    splits = fold_rows(manifest, 5)
    assert sorted(row for parts in splits for row in parts["test"]) == list(range(20))
    for parts in splits:
        assert sorted(row for part in parts.values() for row in part) == list(range(20))
        assert Counter(manifest.labels(parts["test"])) == {"no": 2, "yes": 2}
        assert len(parts["val"]) == 2
    assert fold_rows(manifest, 5) == splits
    assert fold_rows(manifest, 5, seed=1) != splits


def test_groups_and_files_stay_together(rows, save):
    """Rows 0 to 3, and others, share a group; rows 12 and 13 share an image."""
    rows[13]["image"] = rows[12]["image"]
    rows = [
        row | {"group": number // 4 if number < 12 else number} for number, row in enumerate(rows)
    ]
    manifest = read_manifest(save(rows))
    sets = [set(each) for each in linked(manifest.rows, range(20))]
    assert sorted(map(len, sets)) == [1] * 6 + [2, 4, 4, 4]
    for parts in fold_rows(manifest, 4):
        for part in parts.values():
            assert all(each <= set(part) or not each & set(part) for each in sets)
        assert set(manifest.labels(parts["test"])) == {"no", "yes"}


def test_every_fold_has_test_rows_of_as_many_owners(save):
    table = [{"age": n, "label": n // 6 % 2, "group": f"owner {n // 6}"} for n in range(60)]
    manifest = read_manifest(save(table), {"tabular": "age"})
    assert [len(parts["test"]) for parts in fold_rows(manifest, 10)] == [6] * 10
    many = [{"age": n, "label": f"class {n % 20}"} for n in range(100)]
    sizes = [
        len(parts["test"]) for parts in fold_rows(read_manifest(save(many), {"tabular": "age"}), 10)
    ]
    assert max(sizes) - min(sizes) <= 2


def test_test_rows_of_a_split_column_are_in_no_fold(rows, save):
    rows = [
        row | {"split": ("train", "val", "test")[number % 3]} for number, row in enumerate(rows)
    ]
    splits = fold_rows(read_manifest(save(rows)), 3)
    tested = sorted(row for parts in splits for row in parts["test"])
    assert tested == [row for row in range(20) if row % 3 != 2]


def test_impossible_folds(rows, save, tmp_path):
    manifest = save([{name: row[name] for name in ("text", "label")} for row in rows])
    with pytest.raises(ManifestError, match="20 independent sets of rows cannot be split into 21"):
        quick(manifest, tmp_path / "run", folds=21)
    with pytest.raises(ConfigError, match="folds must be at least 2"):
        quick(manifest, tmp_path / "run", folds=1)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "fold-1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="already contains fold-1"):
        quick(manifest, tmp_path / "run", folds=2)
    rare = [{"text": "x", "label": "rare" if number == 3 else number % 2} for number in range(20)]
    with pytest.raises(
        ManifestError, match="line 4: the label 'rare' is in test but never in train"
    ):
        fold_rows(read_manifest(save(rare)), 4)


@pytest.mark.slow
def test_a_run_with_folds(manifest, tmp_path):
    run = quick(manifest, tmp_path / "whole", folds=2)
    found = json.loads((run.folder / folds.CROSS_VALIDATION).read_text())
    assert found == run.cross_validation
    assert (found["folds"], found["score"], list(found["models"])) == (2, "accuracy", ["fusion"])
    scores = [load_score(run.folder / f"fold-{number}") for number in (1, 2)]
    fusion = found["models"]["fusion"]
    assert fusion["scores"] == pytest.approx(scores)
    assert fusion["mean"] == pytest.approx(np.mean(scores))
    assert fusion["std"] == pytest.approx(pd.Series(scores).std())
    # The model for predictions is that of a run without folds.
    plain = content(quick(manifest, tmp_path / "plain").folder)
    whole = content(run.folder)
    assert {name: each for name, each in whole.items() if name in plain} == plain
    table = io.StringIO()
    Console(file=table, width=100).print(cross_validation(found))
    assert "Accuracy on the test rows of 2 folds" in table.getvalue()
    assert f"{scores[1]:.3f}" in table.getvalue()


@pytest.mark.slow
def test_a_run_with_folds_resumes(manifest, tmp_path, monkeypatch):
    whole = quick(manifest, tmp_path / "whole", folds=2)
    trained = []
    monkeypatch.setattr(baselines, "train", counted(baselines.train, trained))
    # A fold has two steps an epoch and saves five states: stop in each fold, then in the run.
    for stop in (4, 3, 5):
        with stopped_at(monkeypatch, stop):
            quick(manifest, tmp_path / "run", folds=2, resume=True)
    trained.clear()
    for expected in (["fusion"], []):  # no fold is repeated, then nothing is
        again = quick(manifest, tmp_path / "run", folds=2, resume=True)
        assert trained == expected
        assert content(again.folder) == content(whole.folder)
        assert again.cross_validation == whole.cross_validation
        trained.clear()


def load_score(folder) -> float:
    """Return the accuracy of a fold's model on its test rows, computed from its files."""
    return value(predictions(load(folder).network, run_rows(folder).dataset), "accuracy")


def counted(train, trained):
    def counting(name, *arguments):
        trained.append(name)
        return train(name, *arguments)

    return counting


@pytest.mark.slow
def test_the_model_keeps_the_scores(rows, tmp_path):
    frame = pd.DataFrame([{name: row[name] for name in ("text", "label")} for row in rows])
    model = FusionModel(folds=2, epochs=1, baselines=True, vocabulary=256, **OPTIONS)
    assert model.cross_validation_ is None
    model.fit(frame)
    classical = {"text TF-IDF", "frozen features, linear head"}
    assert set(model.cross_validation_["models"]) == {"text only", "no recurrence", *classical}
    assert all(len(each["scores"]) == 2 for each in model.cross_validation_["models"].values())
    assert len(model.predict(frame)) == 20
