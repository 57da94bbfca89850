"""Test which role each column of a table gets, and the reasons that are printed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
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


def roles(columns, **options):
    """Return the roles and the reasons of a table's columns."""
    manifest = read_manifest(pd.DataFrame(columns), **options)
    return manifest.columns, manifest.reasons


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "unnamed: 0.1", "__index_level_0__"])
@pytest.mark.parametrize("ignore", [(), "z"])
def test_a_saved_index_is_no_input(name, ignore):
    index = [3 * number for number in range(8)]
    columns, reasons = roles(
        {name: index, "age": [1.5] * 7 + [2.5], "z": 0, "label": ["a", "b"] * 4}, ignore=ignore
    )
    assert columns == {"label": "label", "tabular:age": "age"}
    assert reasons[name] == "the index of a DataFrame; name it with --tabular to use it"


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ({"target": "masks/a.png"}, {"label": "target"}),
        ({"text": "see x.png", "label": "a"}, {"text": "text", "label": "label"}),
        ({"audio": "a.png", "label": "a"}, {"audio": "audio", "label": "label"}),
    ],
)
def test_a_column_has_one_role(cells, found):
    columns, _ = roles({"age": [1.5, 2.5, 1.5, 2.5]} | cells)
    assert columns == found | {"tabular:age": "age"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("signal", float), ("sensor", str), ("frame", float), ("clip", str), ("claim", float)],
)
def test_numbers_have_no_role_by_name(name, kind):
    columns, _ = roles({name: map(kind, [0.5, 2.5, 0.5, 2.5]), "label": ["a", "b", "b", "a"]})
    assert columns == {"label": "label", f"tabular:{name}": name}


def test_the_number_of_a_fold_is_no_split():
    columns, reasons = roles({"fold": [0, 1, 2, 0], "x": [0.5, 2.5] * 2, "label": list("abba")})
    assert columns == {"label": "label", "tabular:x": "x"}
    assert reasons["fold"] == "not train, val or test; name it with --split to use it"


def test_brackets_are_not_always_a_list(frame):
    table = frame[["note", "label"]].copy()
    table.loc[5, "note"] = "[deleted]"
    assert read_manifest(table).columns["text"] == "note"
    table.loc[3, "note"] = "[1, 2]"
    table["colour"] = frame["colour"]
    assert read_manifest(table).reasons["note"] == "its cells are of the type list"


def test_columns_of_other_types_have_no_role():
    image = [{"bytes": b"", "path": "a.png"}] * 4
    table = pa.table({"image": image, "x": [0.5, 2.5] * 2, "label": ["a", "b", "b", "a"]})
    manifest = read_manifest(table)
    assert manifest.columns == {"label": "label", "tabular:x": "x"}
    assert manifest.reasons["image"] == "its type is not read"
    with pytest.raises(ManifestError, match="is not a path"):
        read_manifest(table, {"image": "image"})


def test_files_of_series():
    columns, reasons = roles({"curve": ["0.csv", "1.csv"], "label": ["a", "b"]})
    assert columns == {"label": "label", "series": "curve"}
    assert reasons["curve"] == "file extension .csv"
