"""Test reading manifests: supported input, and error messages for invalid input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastrnn.fusion import ConfigError, ManifestError, read_manifest
from fastrnn.fusion.data.splits import split_rows


def expect_error(path: Path, *texts: str, problem_type: str | None = None, **named: str) -> None:
    """Check that reading or splitting fails with a message that contains all the texts."""
    with pytest.raises(ManifestError) as caught:
        split_rows(read_manifest(path, named, problem_type=problem_type))
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_reads(rows, save, ending):
    manifest = read_manifest(save(rows, ending))
    assert manifest.modalities == ("audio", "image", "text")
    assert len(manifest) == len(manifest.rows) == 20
    assert not manifest.stream
    row = manifest.rows[3]
    assert (row.images, row.audio, row.label) == (("3.png",), "3.wav", "yes")
    assert manifest.rows.steps().tolist() == [1] * 20
    assert row.where == manifest.where(3) == ("line 5" if ending == "csv" else "line 4")


def test_roles_come_from_file_endings_names_and_flags(rows, save):
    renamed = [
        {"a": row["image"], "b": row["audio"], "note": row["text"], "Class": row["label"]}
        for row in rows
    ]
    manifest = read_manifest(save(renamed, "csv"), {"text": "note"})
    assert manifest.columns == {"image": "a", "audio": "b", "text": "note", "label": "Class"}
    assert read_manifest(save(renamed, "csv"), ignore="note").ignored == ("note",)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_streams(streams, save, ending):
    if ending == "csv":
        streams = [
            {
                name: json.dumps(cell) if isinstance(cell, list) else cell
                for name, cell in row.items()
            }
            for row in streams
        ]
    manifest = read_manifest(save(streams, ending))
    assert manifest.stream
    assert manifest.task.per_step
    assert manifest.rows.steps()[:5].tolist() == [1, 2, 3, 4, 1]
    assert manifest.rows[2].label == (None, "0", "1")


def test_missing_manifest(tmp_path):
    expect_error(tmp_path / "none.csv", "none.csv", "no such file")


def test_other_format(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    expect_error(tmp_path / "a.xlsx", ".csv, .jsonl, .parquet or .tar")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", ""), ("a.csv", "image,label\n"), ("a.csv", "\n\n"), ("a.jsonl", "\n")],
)
def test_empty(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    expect_error(tmp_path / name, "no rows")


@pytest.mark.parametrize("text", ["image,label\n1.png,yes\n", '[\n{"label":\n1}\n]\n'])
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_no_line_is_json(tmp_path, text, on_bad_row):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ManifestError, match=r"a\.jsonl, line 1: not JSON"):
        read_manifest(tmp_path / "a.jsonl", on_bad_row=on_bad_row)


def test_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"image,label\n\xff.png,1\n")
    expect_error(tmp_path / "a.csv", "UTF-8")


HALF = "\ud800"  # half of a surrogate pair: valid in JSON, but cannot be encoded as UTF-8


@pytest.mark.parametrize("change", [{"label": HALF}, {HALF: "a column"}])
def test_names_that_are_not_valid_unicode(rows, save, change):
    expect_error(save([rows[0] | change, *rows[1:]]), r"'\ud800'", "not valid Unicode")


def test_a_row_with_a_label_that_is_not_valid_unicode_can_be_skipped(rows, save):
    manifest = read_manifest(save([rows[0] | {"label": HALF}, *rows[1:]]), on_bad_row="skip")
    assert len(manifest) == len(rows) - 1
    assert [where for where, _ in manifest.skipped] == ["line 1"]


@pytest.mark.parametrize("name", [b"\xff/t.jsonl", b"\xff.jsonl"])
def test_paths_that_are_not_valid_unicode(rows, save, tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        save([{"text": row["text"], "label": row["label"]} for row in rows]).read_bytes()
    )
    expect_error(path, "not valid Unicode")


def test_not_json(tmp_path, rows, save):
    path = save(rows)
    path.write_text(path.read_text() + "{oops\n")
    expect_error(path, "line 21", "not JSON")


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("text;label\na;yes\n", "semicolons"),
        ("text\tlabel\na\tyes\n", "tabs"),
        ("image;a text, or none;label\n", "semicolons"),
    ],
)
def test_cells_that_are_not_separated_by_commas(tmp_path, text, called):
    (tmp_path / "a.csv").write_text(text)
    expect_error(tmp_path / "a.csv", f"separated by {called}; save the file with commas")


def test_one_cell_under_two_columns(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nalone\n")
    expect_error(tmp_path / "a.csv", "1 cell but 2 columns")


def test_ragged_csv(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none, two,yes\n")
    expect_error(tmp_path / "a.csv", "line 2", "3 cells but 2 columns", "quotes")


def test_missing_column(rows, save):
    expect_error(save(rows), "no column 'sound'", "image, audio, text, label", audio="sound")
    expect_error(save([{k: row[k] for k in ("image", "text")} for row in rows]), "--label")
    expect_error(save([{"label": row["label"], "n": 1} for row in rows]), "--image")


def test_two_columns_for_one_role(rows, save):
    expect_error(save([row | {"target": row["label"]} for row in rows]), "label, target", "--label")
    expect_error(save(rows), "label is one column", label="label,text")
    expect_error(save(rows), "'image' is named for image twice", image="image,image")


def test_one_column_for_two_roles(rows, save):
    expect_error(save(rows), "'text'", "label and text", label="text", text="text")


def test_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,text\na,b,c\n")
    expect_error(tmp_path / "a.csv", "'text' appears twice")


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_empty_label(rows, save, empty):
    rows[4]["label"] = empty
    expect_error(save(rows), "line 5", "'label'", "empty")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("role", ["image", "audio", "text"])
@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_cell_is_a_missing_modality(rows, save, role, empty, ending):
    rows[4][role] = empty
    manifest = read_manifest(save(rows, ending))
    assert manifest.missing == (role,)
    assert manifest.rows.lacking(role).nonzero()[0].tolist() == [4]
    assert [number for number, row in enumerate(manifest.rows) if not row.has(role)] == [4]
    assert manifest.modalities == ("audio", "image", "text")


def test_a_row_needs_at_least_one_modality(rows, save):
    rows[4] |= {"image": "", "audio": None, "text": " "}
    expect_error(save(rows), "line 5", "all inputs are empty (audio, image, text)", "fill one")


def test_an_empty_list_is_not_a_missing_image(streams, save):
    streams[4]["image"] = []
    expect_error(save(streams), "line 5", "the list is empty", "leave the cell empty")


def test_root(rows, save, tmp_path):
    deeper = tmp_path / "tables"
    deeper.mkdir()
    path = save(rows).rename(deeper / "manifest.jsonl")
    manifest = read_manifest(path, root=tmp_path)
    assert manifest.root == tmp_path.resolve()
    assert len(manifest) == 20


def test_numbers_of_labels_and_images_must_match(streams, save):
    streams[3]["label"] = ["1", "2"]
    expect_error(save(streams), "line 4", "2 labels for 4 images")


def test_rows_must_all_be_streams_or_none(rows, save):
    listed = rows[1] | {"image": ["0.png"]}
    expect_error(save([rows[0], listed]), "line 2", "a single image and a list")
    listed["image"], listed["label"] = "0.png", ["yes"]
    expect_error(save([rows[0], listed]), "line 2", "list of labels")


def test_no_step_has_a_label(streams, save):
    streams[3]["label"] = [None] * 4
    expect_error(save(streams), "line 4", "no step has a label")


def test_unknown_split(rows, save):
    expect_error(
        save([row | {"split": "holdout"} for row in rows]), "'holdout'", "train, val or test"
    )


def test_prediction_detects_streams_by_lists_of_images(streams, save):
    manifest = read_manifest(save(streams), labelled=False)
    assert manifest.stream
    assert manifest.rows.steps()[:5].tolist() == [1, 2, 3, 4, 1]


def test_a_stream_without_images_has_one_step_per_label(streams, save):
    streams[2]["image"] = None
    manifest = read_manifest(save(streams))
    assert manifest.missing == ("image",)
    assert manifest.rows.steps()[:4].tolist() == [1, 2, 3, 4]
    assert manifest.rows[2].stream


def test_bad_rows_are_skipped_and_listed(rows, save):
    rows[2]["image"] = "../up.png"
    rows[5]["label"] = ""
    rows[6] |= {"image": "", "audio": "", "text": ""}
    rows[9]["audio"] = "../up.wav"
    path = save(rows)
    path.write_text(path.read_text() + "{oops\n[1]\n")
    manifest = read_manifest(path, on_bad_row="skip")
    assert len(manifest) == 16
    assert [where for where, _ in manifest.skipped] == [
        f"line {number}" for number in (3, 6, 7, 10, 21, 22)
    ]
    assert "'../up.png' is outside the folder" in manifest.skipped[0][1]
    expect_error(path, "line 3")
    with pytest.raises(ConfigError, match="error, skip"):
        read_manifest(path, on_bad_row="ignore")


def test_ragged_lines_are_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none, two,yes\nthree,no\nfour,yes\n")
    manifest = read_manifest(tmp_path / "a.csv", on_bad_row="skip")
    assert [row.text for row in manifest.rows] == ["three", "four"]
    assert "3 cells but 2 columns" in manifest.skipped[0][1]


def test_skipping_all_rows_is_an_error(rows, save):
    path = save([row | {"image": "../up.png"} for row in rows])
    with pytest.raises(ManifestError, match=r"no row can be used; the first error: .*up\.png"):
        read_manifest(path, on_bad_row="skip")


def test_a_long_cell(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(f"text,label\n{'a ' * 100_000},yes\nb,no\n")
    assert len(read_manifest(tmp_path / "a.csv").rows[0].text) == 199_999
    monkeypatch.setattr("fastrnn.fusion.data.readers._LARGEST_CELL", 199_998)
    expect_error(tmp_path / "a.csv", "line 2", "not CSV (field larger than field limit")


def test_unknown_role(rows, save):
    with pytest.raises(ConfigError, match="unknown role 'video'"):
        read_manifest(save(rows), {"video": "image"})
