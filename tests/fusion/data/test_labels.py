"""Labels as targets: classes, several labels, numbers, and labels that do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastrnn.fusion.data.manifest import read_manifest
from fastrnn.fusion.data.processor import Preprocessor
from fastrnn.fusion.errors import ManifestError
from tests.fusion.data.test_processor import CONFIG, loaded


@pytest.mark.parametrize("named", [{}, {"problem_type": "multiclass"}])
def test_labels_become_indices(rows, save, named):
    preprocessor, examples = loaded(save(rows), **named)
    assert preprocessor.labels == ("no", "yes")
    assert preprocessor.problem_type == named.get("problem_type", "binary")
    assert examples.collate([0, 1, 3])["label"].tolist() == [0, 1, 1]


def test_multilabel(rows, save):
    cells = ["b|a", "c", "[]", "a"] * 5
    rows = [row | {"label": cell} for row, cell in zip(rows, cells, strict=True)]
    preprocessor, examples = loaded(save(rows))
    assert preprocessor.labels == ("a", "b", "c")
    label = examples.collate([0, 1, 2, 3])["label"]
    assert label.dtype == torch.float32
    assert label.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_regression(rows, save):
    values = [number**2 / 3 for number in range(20)]
    rows = [row | {"label": value} for row, value in zip(rows, values, strict=True)]
    manifest = read_manifest(save(rows), problem_type="regression")
    preprocessor = Preprocessor.fit(manifest, range(10), CONFIG)
    assert preprocessor.labels == ()
    mean, deviation = preprocessor.target
    assert mean == pytest.approx(np.mean(values[:10]))
    assert deviation == pytest.approx(np.std(values[:10]))
    label = preprocessor.load(manifest, range(20)).collate(range(20))["label"]
    assert label.dtype == torch.float32
    # Standardised labels are at most 13, so off by 13 * 2^-24; the deviation is below 10.
    torch.testing.assert_close(
        label.double() * deviation + mean, torch.tensor(values).double(), atol=1e-5, rtol=0
    )


def test_targets_without_a_usable_scale_are_rejected(rows, save):
    values = [1e17 + 1000 * number for number in range(20)]
    manifest = read_manifest(
        save([row | {"label": value} for row, value in zip(rows, values, strict=True)]),
        problem_type="regression",
    )
    with pytest.raises(ManifestError, match=r"mean, 1e\+17, .*rounding error; subtract the mean"):
        Preprocessor.fit(manifest, range(20), CONFIG)


def test_target_far_from_training_is_rejected(rows, save):
    rows = [row | {"label": number} for number, row in enumerate(rows)]
    manifest = read_manifest(save(rows), problem_type="regression")
    preprocessor = Preprocessor.fit(manifest, range(20), CONFIG)
    rows[3]["label"] = 1e30
    far = read_manifest(save(rows), problem_type="regression")
    with pytest.raises(
        ManifestError, match=r"line 4: 1e\+30 is more than 1e\+15 standard deviations"
    ):
        preprocessor.load(far, range(20))


def test_older_model_may_spell_labels_differently(rows, save):
    preprocessor, _ = loaded(save([row | {"label": n % 2} for n, row in enumerate(rows)]))
    before = replace(preprocessor, labels=("0.0", "1.0"))
    manifest = read_manifest(save([row | {"label": float(n % 2)} for n, row in enumerate(rows)]))
    for each in (preprocessor, before):
        label = each.load(manifest, range(20)).collate(range(20))["label"]
        assert label.tolist() == [number % 2 for number in range(20)]


def test_unknown_label(rows, save):
    preprocessor, _ = loaded(save(rows))
    rows[3]["label"] = "perhaps"
    manifest = read_manifest(save(rows))
    with pytest.raises(ManifestError, match=r"line 4: the label 'perhaps' was not in training"):
        preprocessor.load(manifest, range(20))
    examples = preprocessor.load(manifest, range(20), on_bad_row="skip")
    assert len(examples) == 19
    assert examples.skipped[0][0] == "line 4"


def test_rows_without_labels(rows, save):
    preprocessor, _ = loaded(save(rows))
    manifest = read_manifest(
        save([{k: v for k, v in row.items() if k != "label"} for row in rows]), labelled=False
    )
    examples = preprocessor.load(manifest, range(20))
    assert len(examples) == 20
    assert "label" not in examples.collate([0, 1])
    with pytest.raises(ManifestError, match="training needs labels"):
        Preprocessor.fit(manifest, range(20), CONFIG)
