"""Labels as targets: classes, several labels, numbers, and labels that do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastrnn.fusion import ManifestError, Processor, load_dataset, read_manifest
from fastrnn.fusion.tasks import task_of
from tests.fusion.data.loaded import CONFIG, loaded


@pytest.mark.parametrize("named", [{}, {"problem_type": "multiclass"}])
def test_labels_become_indices(rows, save, named):
    processor, dataset = loaded(save(rows), **named)
    assert processor.task.labels == ("no", "yes")
    assert processor.task.problem_type == named.get("problem_type", "binary")
    assert dataset.batch([0, 1, 3])["label"].tolist() == [0, 1, 1]


def test_numbers_are_sorted_as_numbers(rows, save):
    rows = [row | {"label": number % 12} for number, row in enumerate(rows)]
    processor, dataset = loaded(save(rows))
    assert processor.task.labels == tuple(map(str, range(12)))
    assert dataset.labels().tolist() == [number % 12 for number in range(20)]


def test_multilabel(rows, save):
    cells = ["b|a", "c", "[]", "a"] * 5
    rows = [row | {"label": cell} for row, cell in zip(rows, cells, strict=True)]
    processor, dataset = loaded(save(rows))
    assert processor.task.labels == ("a", "b", "c")
    label = dataset.batch([0, 1, 2, 3])["label"]
    assert label.dtype == torch.float32
    assert label.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_regression(rows, save):
    values = [number**2 / 3 for number in range(20)]
    rows = [row | {"label": value} for row, value in zip(rows, values, strict=True)]
    manifest = read_manifest(save(rows), problem_type="regression")
    processor = Processor.fit(manifest, range(10), CONFIG)
    assert processor.task.labels == ()
    mean, deviation = processor.task.scale
    assert mean == pytest.approx(np.mean(values[:10]))
    assert deviation == pytest.approx(np.std(values[:10]))
    label = load_dataset(manifest, processor).batch(range(20))["label"]
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
        Processor.fit(manifest, range(20), CONFIG)


def test_target_far_from_training_is_rejected(rows, save):
    rows = [row | {"label": number} for number, row in enumerate(rows)]
    manifest = read_manifest(save(rows), problem_type="regression")
    processor = Processor.fit(manifest, range(20), CONFIG)
    rows[3]["label"] = 1e30
    far = read_manifest(save(rows), problem_type="regression")
    with pytest.raises(
        ManifestError, match=r"line 4: 1e\+30 is more than 1e\+15 standard deviations"
    ):
        load_dataset(far, processor)


def test_older_model_may_spell_labels_differently(rows, save):
    processor, _ = loaded(save([row | {"label": n % 2} for n, row in enumerate(rows)]))
    before = replace(processor, task=task_of("binary")(("0.0", "1.0")))
    manifest = read_manifest(save([row | {"label": float(n % 2)} for n, row in enumerate(rows)]))
    for each in (processor, before):
        label = load_dataset(manifest, each).labels()
        assert label.tolist() == [number % 2 for number in range(20)]


def test_unknown_label(rows, save):
    processor, _ = loaded(save(rows))
    rows[3]["label"] = "perhaps"
    manifest = read_manifest(save(rows))
    with pytest.raises(ManifestError, match=r"line 4: the label 'perhaps' was not in training"):
        load_dataset(manifest, processor)
    dataset = load_dataset(manifest, processor, on_bad_row="skip")
    assert len(dataset) == 19
    assert dataset.skipped[0][0] == "line 4"


def test_rows_without_labels(rows, save):
    processor, _ = loaded(save(rows))
    manifest = read_manifest(
        save([{k: v for k, v in row.items() if k != "label"} for row in rows]), labelled=False
    )
    dataset = load_dataset(manifest, processor)
    assert len(dataset) == 20
    assert "label" not in dataset.batch([0, 1])
    with pytest.raises(ManifestError, match="training needs labels"):
        Processor.fit(manifest, range(20), CONFIG)
