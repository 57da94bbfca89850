"""Tables and files behind URLs: fsspec's memory:// stands for an object store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFile

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    ManifestError,
    MediaError,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.data.loader import BatchLoader
from fastrnn.fusion.data.local_file import local_file
from fastrnn.fusion.data.storage import RemotePath, as_path, below
from fastrnn.fusion.errors import StorageError
from tests.fusion.data.loaded import CONFIG, loaded, same, same_batch
from tests.fusion.data.test_manifest import expect_error
from tests.fusion.data.test_paths import expect_bad_row


@pytest.fixture
def store(full, tmp_path):
    """memory://data with copies of the files of all rows."""
    store = fsspec.filesystem("memory")
    for file in tmp_path.iterdir():
        store.pipe(f"memory://data/{file.name}", file.read_bytes())
    yield store
    store.rm("memory://data", recursive=True)


def put(store, rows, ending="jsonl"):
    """Write a table next to the files; return its URL."""
    url, frame = f"memory://data/table.{ending}", pd.DataFrame(rows)
    with store.open(url, "wb") as file:
        if ending == "parquet":
            frame.assign(series=frame["series"].map(json.dumps)).to_parquet(file)
        elif ending == "csv":
            frame.to_csv(file, index=False)
        else:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    return url


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_remote_table_gives_the_rows_of_a_local_one(full, save, store, ending):
    if ending == "parquet":  # its column has one type
        for row in full:
            row.pop("series")
        full = [row | {"series": [1.0, 2.0]} for row in full]
    local = loaded(save(full))[1]
    url = put(store, full, ending)
    manifest = read_manifest(url)
    assert (str(manifest.path), str(manifest.root)) == (url, "memory://data")
    remote = load_dataset(manifest, local.processor)
    same(local, remote)
    batches = [[0, 5], [19]]
    loader = BatchLoader(remote, batches, num_workers=1)
    for rows, batch in zip(batches, loader, strict=True):
        same_batch(batch, local.batch(rows))


def test_urls_in_cells_and_a_remote_root_of_a_local_table(full, save, store):
    local = loaded(save(full))[1]
    for row in full[::2]:
        row["image"] = f"memory://data/{row['image']}"
    manifest = read_manifest(save(full), root="memory://data")
    assert manifest.rows[0].images == ("0.png",)
    same(local, load_dataset(manifest, local.processor))


def test_file_urls(full, save, tmp_path):
    path = save(full)
    before = read_manifest(path)
    full[3]["image"] = f"file://{tmp_path}/3.png"
    path = save(full)
    for table, root in ((f"file://{path}", None), (path, f"file://{tmp_path}")):
        manifest = read_manifest(table, root=root)
        assert manifest.table.equals(before.table)
        assert manifest.root == tmp_path
    full[3]["image"] = "file:///etc/passwd"
    expect_error(save(full), "line 4", "leads outside")


@pytest.mark.parametrize(
    "cell",
    [
        "http://internal/2.png",
        "memory://data/2.png",
        "memory:///etc/passwd",
        "simplecache::http://internal/2.png",
        "ftp://host/2.png",
        "file://2.png",
    ],
)
def test_a_local_table_names_no_remote_file(full, save, cell):
    full[2]["image"] = cell
    expect_error(save(full), "line 3", "'image'", "leads outside", "--root")


@pytest.mark.parametrize(
    "cell",
    [
        "http://internal/2.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "memory://other/2.png",
        "memory://data2/2.png",
        "memory://data/../2.png",
        "memory://data//etc/passwd",
        "memory://data/x::http://internal/2.png",
        "x::memory:2.png",
        "..%2f2.png",
        "%2e%2E/2.png",
    ],
)
def test_remote_files_stay_inside_the_root(full, store, cell):
    full[2]["image"] = cell
    expect_error(put(store, full), "line 3", "'image'", "outside")


@pytest.mark.parametrize("cell", ["a.png?key=1", "a.png#b"])
def test_files_below_a_web_address_have_no_parameters(cell):
    with pytest.raises(ValueError, match="png"):
        below(as_path("https://host/data"), cell)
    assert below(as_path("s3://bucket/data"), cell) == cell
    assert below(as_path("https://host/data"), "https://host/data/a b.png") == "a b.png"


@pytest.mark.parametrize("role", ["image", "audio", "series"])
def test_a_missing_remote_file(full, store, role):
    full[1][role] = "gone.npy"
    with pytest.raises(MediaError, match=r"line 2: there is no file 'gone.npy' in memory://data"):
        loaded(put(store, full))[1][1]


def test_a_damaged_remote_file_is_named_by_its_url(full, store):
    store.pipe("memory://data/3.png", b"no picture")
    expect_bad_row(put(store, full), 3, "line 4", "memory://data/3.png: not a PNG")
    store.pipe("memory://data/4.csv", b"1,2\nx,3\n")
    with pytest.raises(MediaError, match=r"line 5: memory://data/4.csv: line 2: 'x,3' has"):
        loaded(put(store, full))


def test_a_large_remote_file_is_not_read(full, store, monkeypatch):
    processor, dataset = loaded(put(store, full))
    store.pipe("memory://data/3.png", bytes((1 << 20) + 1))
    limited = replace(processor, config=replace(CONFIG, max_file_size=1))
    images = load_dataset(dataset.manifest, limited).media["image"]
    reads = []
    system = type(store.open("memory://data/3.png"))
    read = system.read

    def counted(self, *size):
        reads.append(size)
        return read(self, *size)

    monkeypatch.setattr(system, "read", counted)
    with pytest.raises(MediaError, match=r"3\.png: the file has more than the 1 MB.*--max-file"):
        images.load(3)
    assert not reads
    images.load(2)
    assert reads


def test_a_file_of_unknown_size_is_read_up_to_the_limit(store, monkeypatch):
    store.pipe("memory://data/large", b"x" * 2000)
    system = type(store.open("memory://data/large"))
    monkeypatch.setattr(system, "size", None)
    path = RemotePath("memory://data/large")
    assert path.read(2000) == b"x" * 2000
    with pytest.raises(MediaError, match="more than"):
        path.read(1999)


def test_a_decoded_file_is_fetched_once(full, store, monkeypatch):
    processor, dataset = loaded(put(store, full))
    cached = load_dataset(dataset.manifest, processor, cache="memory")
    first = cached.batch(range(20))
    store.rm("memory://data", recursive=True)
    store.pipe("memory://data/empty", b"")
    same_batch(cached.batch(range(20)), first)


def test_local_copies_are_gone_after_decoding(store):
    root = RemotePath("memory://data")
    with local_file(root, "0.png", DataConfig()) as path:
        assert path.read_bytes() == store.cat("memory://data/0.png")
    assert not path.exists()


class Offline(Exception):
    pass


def test_a_network_error_is_not_a_bad_row(full, store, monkeypatch):
    """Otherwise, --on-bad-row skip would drop rows while the network is down."""
    _, dataset = loaded(put(store, full))

    def fail(*_, **__):
        raise Offline("no\nroute")

    monkeypatch.setattr(type(store), "open", fail)
    for call in (
        lambda: dataset[0],
        lambda: list(BatchLoader(dataset, [[0]], num_workers=1)),
        lambda: read_manifest("memory://data/table.jsonl"),
    ):
        with pytest.raises(StorageError, match=r"memory://data/.*: cannot be read \(no route\)"):
            call()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_network_fails_while_a_table_is_read(full, store, monkeypatch, ending):
    url = put(store, full, ending)

    def fail(*_):
        raise Offline("no\nroute")

    monkeypatch.setattr(MemoryFile, "read", fail)
    with pytest.raises(StorageError, match=r"memory://data/.*: cannot be read \(no route\)"):
        read_manifest(url)


@pytest.mark.parametrize(
    "source",
    ["ftp://h/t.csv", "simplecache::s3://b/t.csv", "s3://b/a::http://h/t.csv", "reference://t.csv"],
)
def test_protocols_that_are_not_read(source, rows, save):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(source)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(save(rows), root=source)


def test_a_protocol_whose_package_is_not_installed(monkeypatch):
    def missing(*_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"s3://b/t\.csv: cannot be read: Install s3fs"):
        read_manifest("s3://b/t.csv")


def test_a_remote_table_that_does_not_exist(store):
    with pytest.raises(ManifestError, match=r"memory://data/gone\.csv: no such file"):
        read_manifest("memory://data/gone.csv")
    store.pipe("memory://data/bad.parquet", b"PAR1")
    with pytest.raises(ManifestError, match=r"memory://data/bad\.parquet: the Parquet file cannot"):
        read_manifest("memory://data/bad.parquet")


@pytest.mark.parametrize("url", ["s3://b/a/c.tar", "memory://b/c.csv", "https://h/x/y.jsonl"])
def test_remote_paths_keep_their_url(url):
    path = as_path(url)
    assert isinstance(path, RemotePath)
    assert str(path) == f"{path}" == str(path.resolve()) == str(path.parent / path.name) == url
    assert isinstance(path.parent, RemotePath)
    assert str(path.parent) == url.rpartition("/")[0]
    assert path.suffix == "." + url.rpartition(".")[2]
    assert as_path(path) is path
    assert as_path("a/b://c") == Path("a/b:/c")
    assert not isinstance(as_path("a/b://c"), RemotePath)
