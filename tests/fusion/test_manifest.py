"""Reading the table: what is understood, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastrnn.fusion.errors import ManifestError
from fastrnn.fusion.manifest import read_manifest
from fastrnn.fusion.split import label_names, split_rows


def refused(path: Path, *texts: str, **named: str) -> None:
    """Reading, or dealing, fails with a message that has every one of the texts."""
    with pytest.raises(ManifestError) as caught:
        split_rows(read_manifest(path, named))
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
    import json

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
    refused(tmp_path / "none.csv", "none.csv", "no such file")


def test_other_format(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    refused(tmp_path / "a.xlsx", ".csv, .jsonl or .parquet")


@pytest.mark.parametrize("text", ["", "image,label\n", "\n\n"])
def test_empty(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    refused(tmp_path / "a.csv", "no rows")


def test_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"image,label\n\xff.png,1\n")
    refused(tmp_path / "a.csv", "UTF-8")


def test_not_json(tmp_path, rows, save):
    path = save(rows)
    path.write_text(path.read_text() + "{oops\n")
    refused(path, "line 21", "not JSON")


def test_ragged_csv(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none, two,yes\n")
    refused(tmp_path / "a.csv", "line 2", "3 cells under 2 columns", "quotes")


def test_missing_column(rows, save):
    refused(save(rows), "no column 'sound'", "image, audio, text, label", audio="sound")
    refused(save([{k: row[k] for k in ("image", "text")} for row in rows]), "--label")
    refused(save([{"label": row["label"], "n": 1} for row in rows]), "--image")


def test_two_columns_for_one_role(rows, save):
    refused(save([row | {"photo": row["image"]} for row in rows]), "image, photo", "--image")


def test_one_column_for_two_roles(rows, save):
    refused(save(rows), "'text'", "label and text", label="text", text="text")


def test_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,text\na,b,c\n")
    refused(tmp_path / "a.csv", "'text' appears twice")


def test_missing_file(rows, save):
    rows[6]["audio"] = "gone.wav"
    refused(save(rows), "line 7", "'audio'", "gone.wav", "mend the path, or remove the row")


@pytest.mark.parametrize("role", ["image", "audio", "text", "label"])
@pytest.mark.parametrize("empty", ["", "  ", None])
def test_empty_cell(rows, save, role, empty):
    rows[4][role] = empty
    refused(save(rows), "line 5", repr(role), "empty")


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/passwd", "x\0.png"])
def test_paths_stay_inside(rows, save, path):
    rows[2]["image"] = path
    refused(save(rows), "line 3", "'image'")


def test_links_stay_inside(rows, save, tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "link.png").symlink_to(outside)
    rows[2]["image"] = "link.png"
    refused(save(rows), "line 3", "leads outside", "--root")


def test_root(rows, save, tmp_path):
    deeper = tmp_path / "tables"
    deeper.mkdir()
    path = save(rows).rename(deeper / "manifest.jsonl")
    assert len(read_manifest(path, root=tmp_path).rows) == 20


def test_labels_and_images_differ_in_number(streams, save):
    streams[3]["label"] = ["1", "2"]
    refused(save(streams), "line 4", "2 labels for 4 images")


def test_rows_differ_in_kind(rows, save):
    listed = rows[1] | {"image": ["0.png"]}
    refused(save([rows[0], listed]), "line 2", "one image")
    listed["image"], listed["label"] = "0.png", ["yes"]
    refused(save([rows[0], listed]), "line 2", "list of labels")


def test_no_step_has_a_label(streams, save):
    streams[3]["label"] = [None] * 4
    refused(save(streams), "line 4", "no step has a label")


def test_unknown_split(rows, save):
    refused(save([row | {"split": "holdout"} for row in rows]), "'holdout'", "train, val or test")


def test_deals_by_seed_in_proportion(rows, save):
    manifest = read_manifest(save(rows * 10))
    parts = split_rows(manifest, 0)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 160,
        "val": 20,
        "test": 20,
    }
    assert sorted(index for part in parts.values() for index in part) == list(range(200))
    for part in parts.values():
        yes = sum(manifest.rows[index].label == "yes" for index in part)
        assert abs(yes - len(part) / 2) <= 1
    assert split_rows(manifest, 0) == parts
    assert split_rows(manifest, 1) != parts


def test_rare_labels_are_trained_on(rows, save):
    for number, name in enumerate(("a", "b", "c", "d")):
        rows[number]["label"] = name
    manifest = read_manifest(save(rows))
    for seed in range(10):
        assert {"a", "b", "c", "d"} <= set(
            label_names(manifest, split_rows(manifest, seed)["train"])
        )


def test_split_column_without_val(rows, save):
    rows = [row | {"split": "test" if number > 14 else "train"} for number, row in enumerate(rows)]
    parts = split_rows(read_manifest(save(rows)))
    assert parts["test"] == [15, 16, 17, 18, 19]
    assert (len(parts["train"]), len(parts["val"])) == (13, 2)


def test_label_never_seen_in_training(rows, save):
    rows = [row | {"split": "val" if number > 14 else "train"} for number, row in enumerate(rows)]
    rows[17]["label"] = "perhaps"
    refused(save(rows), "line 18", "'perhaps'", "never in train")


def test_too_few_rows(rows, save):
    refused(save(rows[:9]), "9 rows are too few")


def test_one_label(rows, save):
    refused(save([row | {"label": "yes"} for row in rows]), "one label (yes)")


def test_label_names_sort_as_numbers(rows, save):
    rows = [row | {"label": number % 12} for number, row in enumerate(rows)]
    manifest = read_manifest(save(rows))
    assert label_names(manifest, range(20)) == tuple(map(str, range(12)))
