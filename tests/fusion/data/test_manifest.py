"""Test reading manifests: supported input, and error messages for invalid input."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from fastrnn.fusion.data.blocks import read_blocks
from fastrnn.fusion.data.manifest import read_manifest
from fastrnn.fusion.data.splits import split_rows
from fastrnn.fusion.errors import ConfigError, ManifestError


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
    assert len(manifest.rows) == 20
    assert not manifest.stream
    row = manifest.rows[3]
    assert (row.images[0].name, row.label, row.steps) == ("3.png", "yes", 1)
    assert row.where == ("line 5" if ending == "csv" else "line 4")


def test_roles_come_from_file_endings_names_and_flags(rows, save):
    renamed = [
        {"a": row["image"], "b": row["audio"], "note": row["text"], "Class": row["label"]}
        for row in rows
    ]
    manifest = read_manifest(save(renamed, "csv"), {"text": "note"})
    assert manifest.columns == {"image": "a", "audio": "b", "text": "note", "label": "Class"}
    assert read_manifest(save(renamed, "csv")).ignored == ("note",)


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
    assert manifest.per_step
    assert [row.steps for row in manifest.rows[:5]] == [1, 2, 3, 4, 1]
    assert manifest.rows[2].label == (None, "0", "1")


def test_missing_manifest(tmp_path):
    expect_error(tmp_path / "none.csv", "none.csv", "no such file")


def test_other_format(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    expect_error(tmp_path / "a.xlsx", ".csv, .jsonl or .parquet")


@pytest.mark.parametrize("text", ["", "image,label\n", "\n\n"])
def test_empty(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    expect_error(tmp_path / "a.csv", "no rows")


def test_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"image,label\n\xff.png,1\n")
    expect_error(tmp_path / "a.csv", "UTF-8")


HALF = "\ud800"  # half of a surrogate pair: valid in JSON, but cannot be encoded as UTF-8


@pytest.mark.parametrize("change", [{"label": HALF}, {HALF: "a column"}])
def test_names_that_are_not_valid_unicode(rows, save, change):
    expect_error(save([rows[0] | change, *rows[1:]]), r"'\ud800'", "not valid Unicode")


def test_a_row_with_a_label_that_is_not_valid_unicode_can_be_skipped(rows, save):
    manifest = read_manifest(save([rows[0] | {"label": HALF}, *rows[1:]]), on_bad_row="skip")
    assert len(manifest.rows) == len(rows) - 1
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
    with pytest.raises(ManifestError, match=f"separated by {called}; save the file with commas"):
        next(read_blocks(tmp_path / "a.csv", 10))


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
    expect_error(save([row | {"photo": row["image"]} for row in rows]), "image, photo", "--image")


def test_one_column_for_two_roles(rows, save):
    expect_error(save(rows), "'text'", "label and text", label="text", text="text")


def test_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,text\na,b,c\n")
    expect_error(tmp_path / "a.csv", "'text' appears twice")


def test_missing_file(rows, save):
    rows[6]["audio"] = "gone.wav"
    expect_error(save(rows), "line 7", "'audio'", "gone.wav", "fix the path, or remove the row")


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
    assert [number for number, row in enumerate(manifest.rows) if not row.has(role)] == [4]
    assert manifest.modalities == ("audio", "image", "text")


def test_a_row_needs_at_least_one_modality(rows, save):
    rows[4] |= {"image": "", "audio": None, "text": " "}
    expect_error(save(rows), "line 5", "all inputs are empty (audio, image, text)", "fill one")


def test_an_empty_list_is_not_a_missing_image(streams, save):
    streams[4]["image"] = []
    expect_error(save(streams), "line 5", "the list is empty", "leave the cell empty")


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/passwd", "x\0.png"])
def test_paths_must_stay_inside_the_root(rows, save, path):
    rows[2]["image"] = path
    expect_error(save(rows), "line 3", "'image'")


def test_symlinks_must_stay_inside_the_root(rows, save, tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "link.png").symlink_to(outside)
    rows[2]["image"] = "link.png"
    expect_error(save(rows), "line 3", "leads outside", "--root")


def test_root(rows, save, tmp_path):
    deeper = tmp_path / "tables"
    deeper.mkdir()
    path = save(rows).rename(deeper / "manifest.jsonl")
    assert len(read_manifest(path, root=tmp_path).rows) == 20


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
    assert [row.steps for row in manifest.rows[:5]] == [1, 2, 3, 4, 1]


def test_a_stream_without_images_has_one_step_per_label(streams, save):
    streams[2]["image"] = None
    manifest = read_manifest(save(streams))
    assert manifest.missing == ("image",)
    assert [row.steps for row in manifest.rows[:4]] == [1, 2, 3, 4]
    assert manifest.rows[2].stream


def test_bad_rows_are_skipped_and_listed(rows, save):
    rows[2]["image"] = "gone.png"
    rows[5]["label"] = ""
    rows[6] |= {"image": "", "audio": "", "text": ""}
    rows[9]["audio"] = "../up.wav"
    path = save(rows)
    path.write_text(path.read_text() + "{oops\n[1]\n")
    manifest = read_manifest(path, on_bad_row="skip")
    assert len(manifest.rows) == 16
    assert [where for where, _ in manifest.skipped] == [
        f"line {number}" for number in (3, 6, 7, 10, 21, 22)
    ]
    assert "there is no file 'gone.png'" in manifest.skipped[0][1]
    expect_error(path, "line 3")
    with pytest.raises(ConfigError, match="error, skip"):
        read_manifest(path, on_bad_row="ignore")


def test_ragged_lines_are_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none, two,yes\nthree,no\nfour,yes\n")
    manifest = read_manifest(tmp_path / "a.csv", on_bad_row="skip")
    assert [row.text for row in manifest.rows] == ["three", "four"]
    assert "3 cells but 2 columns" in manifest.skipped[0][1]


def test_a_nul_in_a_path(rows, save):
    rows[2]["image"] = "2\0.png"
    expect_error(save(rows), "line 3", "'image'", r"'2\x00.png' contains a NUL", "fix it")


@pytest.mark.parametrize(("disk", "cell"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accented_names_are_found_in_either_unicode_form(rows, save, tmp_path, disk, cell):
    folder, name = (unicodedata.normalize(disk, each) for each in ("été", "é.png"))
    (tmp_path / folder).mkdir()
    (tmp_path / "2.png").rename(tmp_path / folder / name)
    rows[2]["image"] = unicodedata.normalize(cell, "été/é.png")
    column = unicodedata.normalize(disk, "légende")
    rows = [{column if k == "text" else k: v for k, v in row.items()} for row in rows]
    manifest = read_manifest(save(rows), {"text": unicodedata.normalize(cell, "légende")})
    assert manifest.rows[2].images == (tmp_path.resolve() / folder / name,)
    assert manifest.rows[3].text == "一 word and another and another and another"


def test_pathlib_paths(rows, tmp_path):
    frame = pd.DataFrame([row | {"image": tmp_path / row["image"]} for row in rows])
    frame["audio"] = [Path(name) for name in frame["audio"]]
    manifest = read_manifest(frame, root=tmp_path)
    assert manifest.rows[3].images == (tmp_path.resolve() / "3.png",)
    assert manifest.rows[3].audio == tmp_path.resolve() / "3.wav"
    listed = frame[["label"]].assign(clip=[[path] for path in frame["image"]])
    assert read_manifest(listed, {"image": "clip"}, tmp_path).stream


def test_skipping_all_rows_is_an_error(rows, save):
    path = save([row | {"image": "gone.png"} for row in rows])
    with pytest.raises(ManifestError, match=r"no row can be used; the first error: .*gone\.png"):
        read_manifest(path, on_bad_row="skip")


HOSTILE = ["a" * 5000 + ".png", "\ud800.png", "[" * 100_000 + "]", "x/" * 3000, "." * 300, "\n.png"]


@pytest.mark.parametrize("cell", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("role", ["image", "audio", "series"])
def test_invalid_paths(rows, save, role, cell):
    rows[2][role] = cell
    with pytest.raises(ManifestError) as caught:
        read_manifest(save(rows))
    assert f"line 3, column '{role}'" in str(caught.value)
    assert len(str(caught.value)) < 600  # the message does not repeat the whole cell


def test_a_long_cell(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(f"text,label\n{'a ' * 100_000},yes\nb,no\n")
    assert len(read_manifest(tmp_path / "a.csv").rows[0].text) == 199_999
    monkeypatch.setattr("fastrnn.fusion.data.readers._LARGEST_CELL", 199_998)
    expect_error(tmp_path / "a.csv", "line 2", "not CSV (field larger than field limit")


def test_unknown_role(rows, save):
    with pytest.raises(ConfigError, match="unknown role 'video'"):
        read_manifest(save(rows), {"video": "image"})
