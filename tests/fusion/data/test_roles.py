"""Test which role each column of a table gets, and the reasons that are printed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fastrnn.fusion import ManifestError, read_manifest
from fastrnn.fusion.data.fingerprint import fingerprint
from fastrnn.fusion.data.manifest import described_columns
from fastrnn.fusion.training.describe import describe

ROWS = 100


@pytest.fixture
def frame():
    random = np.random.default_rng(0)
    label = random.choice(["cat", "dog"], ROWS)
    words = np.array(["one", "two", "three", "four", "five", "six", "seven"])
    return pd.DataFrame(
        {
            "photo": [f"{name}/{number}.png" for number, name in enumerate(label)],
            "mask": [f"m/{number}.jpg" for number in range(ROWS)],
            "age": [None, None, *random.integers(20, 80, ROWS - 2)],
            "when": pd.to_datetime("2024-01-01") + pd.to_timedelta(range(ROWS), unit="D"),
            "colour": random.choice(["red", "blue"], ROWS),
            "id": random.permutation(ROWS) + 1000,
            "code": [f"x{number}" for number in range(ROWS)],
            "city": [f"city{number}" for number in random.integers(0, 80, ROWS)],
            "site": "here",
            "diagnosis": np.where(label == "cat", "A", "B"),
            "copy": label,
            "empty": None,
            "note": [" ".join(random.permutation(words)) for _ in range(ROWS)],
            "remark": [" ".join(random.permutation(words)) for _ in range(ROWS)],
            "label": label,
        }
    )


def test_every_column_has_a_reason(frame):
    manifest = read_manifest(frame, {"image": "photo"}, ignore=["code"])
    lines = {
        line.partition(":")[0]: line.partition(":")[2].strip()
        for line in described_columns(manifest)
    }
    hint = "name it with --tabular to use it"
    text = "name it with --text to use it"
    words = frame[["note", "remark"]].nunique().tolist()
    assert lines == {
        "photo": "image, named; file names hold the label, but are not read",
        "mask": "ignored, files .jpg; name it with --image to use it",
        "age": "tabular, numbers (98% of 100 cells)",
        "when": "tabular, dates (100% of 100 cells)",
        "colour": "tabular, categories (100% of 100 cells)",
        "id": f"ignored, a different value in every row; {hint}",
        "code": "ignored, named by --ignore",
        "city": f"ignored, {frame['city'].nunique()} different values in 100 rows; {hint}",
        "site": f"ignored, constant; {hint}",
        "diagnosis": f"ignored, one value for each label; {hint}",
        "copy": f"ignored, equal to the label in every row; {hint}",
        "empty": "ignored, empty",
        "note": f"ignored, text, {words[0]} different values in 100 rows; {text}",
        "remark": f"ignored, text, {words[1]} different values in 100 rows; {text}",
        "label": "label, by its name",
    }
    assert manifest.warnings == ()


def test_named_as_before_the_table_has_the_same_rows(frame):
    """An interrupted run resumes with the columns that it began with."""
    first = read_manifest(frame, ignore="colour")
    again = read_manifest(frame, dict(sorted(first.columns.items(), reverse=True)), infer=())
    assert again.columns == first.columns
    assert fingerprint(again) == fingerprint(first)


def test_the_only_column_of_words_is_the_text(frame):
    del frame["remark"]
    assert read_manifest(frame).columns["text"] == "note"
    frame["caption"] = "some words"
    manifest = read_manifest(frame)
    assert manifest.columns["text"] == "caption"
    assert "note" in manifest.ignored


def test_named_columns_are_used_with_a_warning(frame):
    manifest = read_manifest(frame, {"tabular": ["site", "id", "copy", "age"], "text": "diagnosis"})
    assert [name for name in manifest.columns if name.startswith("tabular:")] == [
        "tabular:site",
        "tabular:id",
        "tabular:copy",
        "tabular:age",
    ]
    assert manifest.columns["image"] == "photo"
    unused = "categories (100% of 100 cells); name it with --tabular to use it"
    assert manifest.reasons["colour"] == unused
    assert manifest.warnings == (
        "site: constant; leave it out with --ignore",
        "id: a different value in every row; leave it out with --ignore",
        "copy: equal to the label in every row; leave it out with --ignore",
        "diagnosis: one value for each label; leave it out with --ignore",
    )


@pytest.mark.parametrize(
    ("values", "is_input"),
    [
        (np.arange(ROWS), False),  # consecutive
        (np.arange(ROWS) * 3, True),  # amounts
        (np.arange(ROWS) + 0.5, True),
        (pd.Series(np.arange(ROWS) * 3, name="patient_id"), False),
        (np.where(np.arange(ROWS) % 2, "a", None), True),  # missing cells say something
    ],
)
def test_identifiers(frame, values, is_input):
    name = getattr(values, "name", None) or "x"
    table = frame[["colour", "label"]].assign(**{name: np.asarray(values)})
    assert (name in read_manifest(table).columns.values()) == is_input


def test_a_regression_on_its_own_label():
    random = np.random.default_rng(0)
    label = random.normal(size=ROWS)
    table = pd.DataFrame({"x": label, "z": random.normal(size=ROWS), "label": label})
    manifest = read_manifest(table)
    assert manifest.columns == {"label": "label", "tabular:z": "z"}
    assert manifest.reasons["x"].startswith("equal to the label in every row")


def test_no_inputs(frame):
    with pytest.raises(ManifestError, match=r"no column of images.*--tabular NAME"):
        read_manifest(frame[["site", "label"]])
    with pytest.raises(ManifestError, match="no column 'nothing'"):
        read_manifest(frame, ignore="nothing")


def test_the_lines_are_aligned(frame, capsys):
    describe(read_manifest(frame[["age", "colour", "label"]]), Console(width=200))
    assert capsys.readouterr().out.splitlines()[:4] == [
        "DataFrame: 100 rows",
        "  age:    tabular, numbers (98% of 100 cells)",
        "  colour: tabular, categories (100% of 100 cells)",
        "  label:  label, by its name",
    ]
