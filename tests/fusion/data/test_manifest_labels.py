"""Labels of a manifest: how their problem_type is inferred, and how they are read."""

from __future__ import annotations

import unicodedata

import pandas as pd
import pytest

from fastrnn.fusion.data.manifest import read_manifest
from fastrnn.fusion.errors import ConfigError
from fastrnn.fusion.tasks import task_of
from tests.fusion.data.test_manifest import expect_error


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [
        (["yes", "no"], "binary"),
        (["a", "b", "c"], "multiclass"),
        (range(20), "multiclass"),
        (range(100), "multiclass"),
        ([number / 2 for number in range(20)], "multiclass"),
        ([number / 2 for number in range(42)], "regression"),
        ([*(number / 2 for number in range(42)), "high"], "multiclass"),
        (["red|round", "red", "round"], "multilabel"),
    ],
)
def test_problem_types_are_inferred(save, labels, problem_type):
    rows = [{"text": "a", "label": label} for label in labels]
    for ending in ("csv", "jsonl"):
        assert read_manifest(save(rows, ending)).problem_type == problem_type
    assert read_manifest(pd.DataFrame(rows)).problem_type == problem_type


def test_several_labels(save):
    cells = ["a|b", "b | c|b", '["c", "a"]', "[]", "c"]
    rows = [{"text": "a", "label": label} for label in cells]
    manifest = read_manifest(save(rows, "csv"), problem_type="multilabel")
    expected = [("a", "b"), ("b", "c"), ("c", "a"), (), ("c",)]
    assert [row.label for row in manifest.rows] == expected
    assert not manifest.stream
    rows[1]["label"] = " | "
    expect_error(save(rows), "line 2", "contains no label; write []", problem_type="multilabel")


def test_labels_that_do_not_fit_the_problem_type(rows, save, streams):
    expect_error(save(rows), "line 1", "'no' is not a finite number", problem_type="regression")
    expect_error(save([row | {"label": "inf"} for row in rows]), "'inf'", problem_type="regression")
    huge = [row | {"label": 1e300} for row in rows]
    expect_error(
        save(huge), "line 1", "1e+300 is beyond ±1e+150", "larger units", problem_type="regression"
    )
    expect_error(save(rows), "line 1", "one label; write a list", problem_type="steps")
    expect_error(save(streams), "line 1", "a list of labels; write one", problem_type="multiclass")
    three = [row | {"label": number % 3} for number, row in enumerate(rows)]
    expect_error(
        save(three),
        "3 labels (0, 1, 2...)",
        "choose problem type multiclass",
        problem_type="binary",
    )
    with pytest.raises(ConfigError, match="problem_type must be one of binary, multiclass"):
        read_manifest(save(rows), problem_type="ordinal")


def test_prediction_needs_no_labels(rows, save):
    bare = [{"image": row["image"], "split": "holdout"} for row in rows]
    manifest = read_manifest(save(bare), {"label": "label", "group": "who"}, labelled=False)
    assert not manifest.labelled
    assert manifest.columns == {"image": "image"}
    assert [row.label for row in manifest.rows] == [""] * 20
    rows[3]["label"] = None
    assert len(read_manifest(save(rows), labelled=False).rows) == 20


def test_unicode_forms_of_labels_and_groups_are_equal(save):
    spelt = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    rows = [{"text": "a", "label": each, "group": each} for each in (*spelt, "e")]
    manifest = read_manifest(save(rows))
    assert [row.label for row in manifest.rows] == ["é", "é", "e"]
    assert manifest.rows[0].group == manifest.rows[1].group
    assert manifest.problem_type == "binary"


def test_spellings_of_integers_and_booleans_are_one_label(save):
    labels = [0, 1, 0.0, 1.0, "0", "1", "0.0", "1.", "-1.00"]
    rows = [{"text": "a", "label": label} for label in labels]
    read = [row.label for row in read_manifest(save(rows)).rows]
    assert read == ["0", "1", "0", "1", "0", "1", "0", "1", "-1"]
    rows = [{"text": "a", "label": label} for label in (True, "True", "true", False, "False")]
    manifest = read_manifest(save(rows))
    assert [row.label for row in manifest.rows] == ["true"] * 3 + ["false"] * 2
    assert manifest.problem_type == "binary"
    rows = [{"text": "a", "label": label} for label in ("1.0|2", "1|2.0", "1.5")]
    several = read_manifest(save(rows))
    assert [row.label for row in several.rows] == [("1", "2"), ("1", "2"), ("1.5",)]


def test_mostly_different_numbers_suggest_a_regression(save):
    rows = [{"text": "a", "label": 3 * number} for number in range(30)]
    hint = (
        "30 of 30 labels are different numbers; if they are amounts, use --problem-type regression"
    )
    assert read_manifest(save(rows)).warnings == (hint,)
    expect_error(save(rows), "no rows are left for val", hint)
    for number, row in enumerate(rows):
        row |= {"split": ("train", "val")[number % 2], "text": f"text {number}"}
    expect_error(save(rows), "line 2: the label '3' is in val but never in train", hint)
    assert read_manifest(save(rows), problem_type="regression").warnings == ()
    assert read_manifest(save([row | {"label": 1} for row in rows])).warnings == ()


def test_labels_are_described():
    assert task_of("multiclass").describe(["yes", "YES", "nan", "yes"]) == "YES 1, nan 1, yes 2"
    assert task_of("multilabel").describe([("a", "b"), (), ("b",)]) == "a 1, b 2"
    assert task_of("steps").describe([(None, "2"), ("10", "2")]) == "2 2, 10 1"
    assert task_of("regression").describe(["1.5", "-2", "-2"]) == "-2 to 1.5, 2 different"
    many = task_of("multiclass").describe([str(number) for number in range(30)])
    assert many.endswith("18 1, 19 1, … (30 different)")


def test_labels_of_another_problem_type_are_skipped(save):
    rows = [{"text": "a", "label": label} for label in (1.5, 2.5, "high", 4)]
    manifest = read_manifest(save(rows), problem_type="regression", on_bad_row="skip")
    assert [row.label for row in manifest.rows] == ["1.5", "2.5", "4"]
    assert manifest.skipped[0][0] == "line 3"
