"""Shards of the WebDataset format: rows, random access, and damaged or hostile archives."""

from __future__ import annotations

import io
import json
import os
import tarfile

import fsspec
import numpy as np
import pytest

from fastrnn.fusion import (
    DataError,
    ManifestError,
    MediaError,
    Processor,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.data import shards
from fastrnn.fusion.data.loader import BatchLoader
from fastrnn.fusion.data.readers import open_table
from fastrnn.fusion.data.shards import read_index, shards_of
from tests.fusion.data.loaded import CONFIG, loaded, same_batch
from tests.fusion.data.test_manifest import expect_error


def add(tar, name, content=b"", **fields):
    """Add a member."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def pack(path, members):
    """Write members, name -> content, as a shard."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            add(tar, name, content if isinstance(content, bytes) else str(content).encode())
    return path


def sample(folder, number, row):
    """Return the members of a row."""
    key = f"./set.v1/{number:03}"
    values = np.arange(6.0).reshape(3, 2) + number
    np.save(folder / f"{number}.npy", values)
    return {
        f"{key}.png": (folder / row["image"]).read_bytes(),
        f"{key}.WAV": (folder / row["audio"]).read_bytes(),
        f"{key}.npy": (folder / f"{number}.npy").read_bytes(),
        f"{key}.txt": row["text"],
        f"{key}.cls": row["label"],
        f"{key}.json": json.dumps({"speaker": number // 2, "more": {"nested": 1}}),
    }


@pytest.fixture
def folder(rows, tmp_path):
    """A folder with 20 rows in three shards, and nothing else."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, part in enumerate((range(8), range(8, 9), range(9, 20))):
        members = {}
        for row in part:
            members |= sample(tmp_path, row, rows[row])
        pack(folder / f"train-{number + 8:03}.tar", members)
    return folder


def test_the_name_of_a_folder_may_have_a_dot(folder):
    table = open_table(folder.rename(folder.with_name("shards-1.0")))
    assert sum(1 for _ in table.records()) == 20


@pytest.mark.parametrize("source", ["", "train-{008..010}.tar"])
def test_shards_give_the_rows_of_their_files(folder, rows, save, tmp_path, source):
    manifest = read_manifest(folder / source, {"group": "speaker"})
    series = [row | {"series": f"{n}.npy", "speaker": n // 2} for n, row in enumerate(rows)]
    processor, files = loaded(save(series), columns={"group": "speaker"})
    assert manifest.labels() == files.manifest.labels()
    assert [row.group for row in manifest.rows] == [row.group for row in files.manifest.rows]
    assert [row.where for row in manifest.rows] == [f"row {number}" for number in range(20)]
    packed = load_dataset(manifest, processor)
    for batch, same in zip(
        BatchLoader(packed, [[19, 3, 8], [0]], num_workers=1),
        BatchLoader(files, [[19, 3, 8], [0]]),
        strict=True,
    ):
        same_batch(batch, same)


def test_one_shard_without_labels(folder):
    manifest = read_manifest(folder / "train-009.tar", labelled=False)
    assert manifest.rows[0].images == ("train-009.tar/set.v1/008.png",)
    assert len(manifest) == 1


def test_members_of_a_shard_in_a_table(folder, rows, save, tmp_path):
    processor, dataset = loaded(save(rows))
    rows[3]["image"] = "shards/train-008.tar/set.v1/003.png"
    packed = load_dataset(read_manifest(save(rows)), processor)
    assert packed.manifest.rows[3].images == (rows[3]["image"],)
    same_batch(packed.batch([3]), dataset.batch([3]))
    rows[3]["image"] = "shards/train-008.tar/gone.png"
    with pytest.raises(MediaError, match=r"line 4: there is no file 'shards/train-008.tar/gone"):
        load_dataset(read_manifest(save(rows)), processor)[3]


def test_a_folder_with_the_ending_of_a_shard(rows, save, tmp_path):
    processor, dataset = loaded(save(rows))
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "3.png").rename(tmp_path / "a.tar" / "3.png")
    rows[3]["image"] = "a.tar/3.png"
    moved = load_dataset(read_manifest(save(rows)), processor)
    assert moved[3]["image"][0].shape == dataset[2]["image"][0].shape


def test_remote_shards(folder):
    store = fsspec.filesystem("memory")
    for file in folder.iterdir():
        store.pipe(f"memory://shards/{file.name}", file.read_bytes())
    local = read_manifest(folder)
    processor = Processor.fit(local, range(20), CONFIG)
    expected = load_dataset(local, processor).batch([19, 8])
    for source in ("memory://shards", "memory://shards/train-{008..010}.tar"):
        remote = load_dataset(read_manifest(source), processor)
        same_batch(remote.batch([19, 8]), expected)
    store.rm("memory://shards", recursive=True)


def test_the_index_is_read_once(folder, monkeypatch):
    _, dataset = loaded(folder)
    monkeypatch.setattr(shards.tarfile, "open", None)
    dataset.batch(range(20))


def test_a_shard_that_changes_is_read_again(tmp_path):
    path = pack(tmp_path / "a.tar", {"1.txt": "one"})
    assert read_index(path).read("1.txt", 10) == b"one"
    pack(path, {"0.txt": "zero", "1.txt": "two"})
    os.utime(path, (0, 0))
    assert read_index(path).read("1.txt", 10) == b"two"


def test_samples_are_consecutive_members_with_one_key(tmp_path):
    members = {
        "b/1.txt": "x",
        "b/1.cls": 0,
        "a/1.cls": 1,  # another folder, so another key
        "a/1.txt": "y",
        "README": "no column",
        "b/.hidden": "no key",
        "b/1.left.txt": "z",  # the key is back, as a new sample
        "b/1.text.left.cls": 2,
    }
    manifest = read_manifest(pack(tmp_path / "a.tar", members), problem_type="multiclass",
                             on_bad_row="skip")  # fmt: skip
    assert [(row.text, row.label) for row in manifest.rows] == [("x", "0"), ("y", "1")]
    assert manifest.ignored == ("left.txt",)
    assert [where for where, _ in manifest.skipped] == ["row 2"]


def test_columns_with_several_dots_can_be_named(rows, tmp_path):
    picture = (tmp_path / "0.png").read_bytes()
    members = {"1.left.png": picture, "1.cls": 1, "2.left.png": picture, "2.cls": 2}
    manifest = read_manifest(pack(tmp_path / "a.tar", members))
    assert manifest.columns["image"] == "left.png"
    assert manifest.rows[1].images == ("a.tar/2.left.png",)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"1.png": b"", "1.jpg": b""}, "1.jpg is a second image of the sample"),
        ({"1.cls": "a", "1.json": '{"label": "b"}'}, "1.json is a second label"),
        ({"1.json": "["}, "1.json is not JSON"),
        ({"1.json": "[1]"}, "1.json is not a JSON object"),
        ({"1.json": "[" * 100_000}, "1.json is not JSON"),
        ({"1.txt": b"\xff"}, "1.txt is not UTF-8"),
        ({"1.json": '{"\\ud800": 1}'}, "is not valid Unicode"),
        ({"../1.png": b"", "../1.cls": "a"}, "is outside the folder"),
        ({"1\udcff.png": b"", "1\udcff.cls": "a"}, "is not valid Unicode"),
    ],
)
def test_a_bad_sample_is_a_bad_row(tmp_path, members, text):
    sound = {f"{n}.{end}": n % 2 for n in range(5, 8) for end in ("txt", "cls")}
    path = pack(tmp_path / "a.tar", members | sound)
    expect_error(path, "a.tar, row 0", text)
    manifest = read_manifest(path, on_bad_row="skip")
    assert [row.text for row in manifest.rows] == ["1", "0", "1"]
    assert [where for where, _ in manifest.skipped] == ["row 0"]


def test_texts_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("fastrnn.fusion.data.webdataset._LARGEST", 10)
    expect_error(pack(tmp_path / "a.tar", {"1.txt": "x" * 11, "1.cls": 1}), "1.txt has over 10")


def test_members_are_limited(folder, tmp_path):
    index = read_index(folder / "train-008.tar")
    with pytest.raises(MediaError, match=r"train-008\.tar/set\.v1/003\.png: the file has more"):
        index.read("set.v1/003.png", 100)
    assert len(index.read("set.v1/003.png", 1000)) == (tmp_path / "3.png").stat().st_size


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.png", type=kind, linkname="/etc/passwd")
    expect_error(tmp_path / "a.tar", "'1.png' is a link, a device or sparse")


def test_folders_are_ignored(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.b/", type=tarfile.DIRTYPE)
        add(tar, "a.b/1.txt", b"x")
        add(tar, "a.b/1.cls", b"x")
    assert len(read_manifest(tmp_path / "a.tar")) == 1


def _negative(data):
    """Give the second member a negative size, which sends tarfile back to it for ever."""
    info = tarfile.TarInfo("2.txt")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[1024:1536] = header


def _huge(data):
    """Make the second member an attribute header of 7 GB."""
    info = tarfile.TarInfo("2.txt")
    info.type, info.size = tarfile.XHDTYPE, 0o77777777777
    data[1024:1536] = info.tobuf(tarfile.USTAR_FORMAT)


def _overwrite(start, end, value=0xAA):
    return lambda data: data.__setitem__(slice(start, end), bytes([value]) * (end - start))


def _cut(size):
    return lambda data: data.__delitem__(slice(size, None))


DAMAGE = [
    _negative, _huge, _overwrite(0, 512), _overwrite(1024, 1536), _overwrite(4096, 4608),
    _cut(0), _cut(700), _cut(1024), _cut(1030), _cut(1100), _cut(2048),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_shards(tmp_path, damage):
    path = pack(tmp_path / "a.tar", {f"{n}.{end}": n for n in range(2) for end in ("txt", "cls")})
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    expect_error(path, "a.tar: the shard", "write it again")


def test_a_compressed_shard(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        add(tar, "1.txt", b"x")
    expect_error(tmp_path / "a.tar", "cannot be read as an uncompressed .tar")


def test_a_repeated_member(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1.txt", "2.txt", "./1.txt"):
            add(tar, name, b"x")
    expect_error(tmp_path / "a.tar", "the member '1.txt' appears twice")


def test_long_names(tmp_path):
    name = "x" * 200 + "/" + "y" * 150
    path = pack(tmp_path / "a.tar", {f"{name}.txt": "a", f"{name}.cls": 1})
    assert len(read_manifest(path)) == 1
    expect_error(pack(path, {f"{name * 2}.txt": "a"}), "a name of more than 400 bytes")


def test_missing_and_empty_shards(folder):
    expect_error(folder / "train-{008..011}.tar", "there is no shard", "train-011.tar")
    expect_error(folder / "gone.tar", "there is no shard")
    expect_error(pack(folder / "train-011.tar", {}).with_name("train-011.tar"), "has no rows")
    (folder / "empty").mkdir()
    expect_error(folder / "empty", "no such file")


def test_a_member_that_is_cut_off_after_the_index_was_read(folder):
    _, dataset = loaded(folder)
    path = folder / "train-010.tar"
    index = read_index(path)
    path.write_bytes(path.read_bytes()[: int(index.offsets[0]) + 100])
    with pytest.raises(DataError, match=r"row 9: .*train-010"):
        dataset[9]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{0..1}-{9..9}.tar", ["0-9.tar", "1-9.tar"]),
        ("a{b,c}.tar", ["a{b,c}.tar"]),
        ("a.csv", []),
    ],
)
def test_patterns(tmp_path, pattern, names):
    assert shards_of(tmp_path / pattern) == [tmp_path / name for name in names]


@pytest.mark.parametrize("pattern", ["{2..1}.tar", "{0..999999999}.tar", "{0..999}{0..999}.tar"])
def test_patterns_of_no_or_of_too_many_shards(pattern):
    with pytest.raises(ManifestError, match="must name 1 to 100,000 shards"):
        read_manifest(pattern)
