"""Paths in a table: they are checked on reading the table; files are found when a row is read."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastrnn.fusion import DataError, MediaError, read_manifest
from tests.fusion.data.loaded import loaded
from tests.fusion.data.test_manifest import expect_error


def expect_bad_row(source: Any, row: int, *texts: str) -> None:
    """Check that reading a row, not the table, fails with a message that contains all the texts."""
    _, dataset = loaded(source)
    with pytest.raises(MediaError) as caught:
        dataset[row]
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(("role", "name"), [("audio", "gone.wav"), ("image", "gone.png")])
def test_missing_file(rows, save, role, name):
    rows[6][role] = name
    said = f"there is no file '{name}' in"
    expect_bad_row(save(rows), 6, "manifest.jsonl, line 7: ", said, "or remove the row")


def test_a_folder_is_not_a_file(rows, save, tmp_path):
    (tmp_path / "folder.png").mkdir()
    rows[6]["image"] = "folder.png"
    expect_bad_row(save(rows), 6, "line 7: there is no file 'folder.png'")


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/passwd", "x\0.png"])
def test_paths_must_stay_inside_the_root(rows, save, path):
    rows[2]["image"] = path
    expect_error(save(rows), "line 3", "'image'")


def test_symlinks_must_stay_inside_the_root(rows, save, tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "link.png").symlink_to(outside)
    rows[2]["image"] = "link.png"
    expect_bad_row(save(rows), 2, "line 3", "leads outside", "--root")


def test_symlinks_inside_the_root(rows, save, tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    rows[2]["image"] = "link.png"
    _, dataset = loaded(save(rows))
    assert (dataset[2]["image"][0] == dataset[0]["image"][0]).all()


def test_a_nul_in_a_path(rows, save):
    rows[2]["image"] = "2\0.png"
    expect_error(save(rows), "line 3", "'image'", r"'2\x00.png' contains a NUL", "fix it")


@pytest.mark.parametrize("spelt", ["./2.png", ".//2.png", "folder/../2.png", "{root}/2.png"])
def test_spellings_of_one_path(rows, save, tmp_path, spelt):
    rows[3]["image"] = spelt.format(root=tmp_path)
    if ".." in spelt:
        expect_error(save(rows), "line 4", "is outside the folder")
        return
    rows[2]["image"] = "2.png"
    manifest = read_manifest(save(rows))
    assert manifest.rows[3].images == manifest.rows[2].images == ("2.png",)


@pytest.mark.parametrize(("disk", "cell"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accented_names_are_found_in_either_unicode_form(rows, save, tmp_path, disk, cell):
    folder, name = (unicodedata.normalize(disk, each) for each in ("été", "é.png"))
    (tmp_path / folder).mkdir()
    (tmp_path / "2.png").rename(tmp_path / folder / name)
    rows[2]["image"] = unicodedata.normalize(cell, "été/é.png")
    column = unicodedata.normalize(disk, "légende")
    rows = [{column if k == "text" else k: v for k, v in row.items()} for row in rows]
    columns = {"text": unicodedata.normalize(cell, "légende")}
    manifest = read_manifest(save(rows), columns)
    assert manifest.rows[3].text == "一 word and another and another and another"
    _, dataset = loaded(save(rows), columns=columns)
    assert dataset[2]["image"][0].shape == (3, 8, 8)


def test_pathlib_paths(rows, tmp_path):
    frame = pd.DataFrame([row | {"image": tmp_path / row["image"]} for row in rows])
    frame["audio"] = [Path(name) for name in frame["audio"]]
    manifest = read_manifest(frame, root=tmp_path)
    assert manifest.rows[3].images == ("3.png",)
    assert manifest.rows[3].audio == "3.wav"
    listed = frame[["label"]].assign(clip=[[path] for path in frame["image"]])
    assert read_manifest(listed, {"image": "clip"}, tmp_path).stream


HOSTILE = ["a" * 5000 + ".png", "\ud800.png", "[" * 100_000 + "]", "x/" * 3000, "." * 300, "\n.png"]


@pytest.mark.parametrize("cell", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("role", ["image", "audio", "series"])
def test_invalid_paths(full, save, role, cell):
    full[2][role] = cell
    with pytest.raises(DataError) as caught:
        loaded(save(full))[1][2]
    message = str(caught.value).replace(str(save(full).parent), "")
    assert "/manifest.jsonl, line 3" in message
    assert len(message) < 400  # the message does not repeat the whole cell
