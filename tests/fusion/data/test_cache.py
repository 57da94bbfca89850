"""Test the cache of decoded files: its limit, processes that share it, and a full disk."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastrnn.fusion import ConfigError, Processor, load_dataset, read_manifest
from fastrnn.fusion.data.cache import ArrayCache, make_cache
from fastrnn.fusion.data.dataset import FusionDataset, load_datasets
from fastrnn.fusion.data.loader import BatchLoader
from tests.fusion.conftest import no_space
from tests.fusion.data.loaded import CONFIG, same

FORK = multiprocessing.get_context("fork")
KINDS = ("memory", "disk")


def array(number: int, size: int = 10) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(size, 3)).astype(np.float32)


def expect(cache: ArrayCache, slot: int, value: np.ndarray) -> None:
    found = cache.get(slot)
    assert found is not None
    assert np.array_equal(found.view(value.dtype).reshape(value.shape), value)
    assert not found.flags.writeable


def in_process(function: Callable[[], None]) -> None:
    """Run a function in a forked process."""
    process = FORK.Process(target=function)
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_are_stored(kind, dtype, tmp_path):
    cache = make_cache(kind, 20, 1 << 20, tmp_path)
    values = [(100 * array(each, each + 1)).astype(dtype) for each in range(20)]
    for slot in reversed(range(20)):
        assert cache.get(slot) is None
        cache.put(slot, values[slot])
    for slot, value in enumerate(values):
        expect(cache, slot, value)


@pytest.mark.parametrize("kind", KINDS)
def test_slices_and_transposed_arrays(kind, tmp_path):
    cache = make_cache(kind, 2, 1 << 20, tmp_path)
    value = array(0).T[1:]
    cache.put(0, value)
    expect(cache, 0, value)


def test_a_full_memory_keeps_its_entries():
    cache = ArrayCache(10, size=3 * 128)  # an array takes 120 bytes, rounded up to 128
    for slot in range(5):
        cache.put(slot, array(slot))
    for slot in range(3):
        expect(cache, slot, array(slot))
    assert cache.get(3) is None
    cache = ArrayCache(10, size=200)
    cache.put(0, array(0, 100))  # too large
    cache.put(1, array(1))  # fits
    assert cache.get(0) is None
    expect(cache, 1, array(1))


def test_a_memory_of_no_bytes():
    cache = ArrayCache(1, size=0)
    cache.put(0, array(0))
    assert cache.get(0) is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_is_stored_once(kind, tmp_path):
    cache = make_cache(kind, 2, 128, tmp_path)
    cache.put(0, array(0))
    cache.put(0, array(1))
    expect(cache, 0, array(0))


def test_the_file_has_no_name(tmp_path):
    cache = make_cache("disk", 1, 0, tmp_path)
    cache.put(0, array(0))
    assert list(tmp_path.iterdir()) == []
    expect(cache, 0, array(0))


def test_no_cache_and_other_kinds(tmp_path):
    assert make_cache(None, 5, 100, tmp_path) is None
    with pytest.raises(ConfigError, match="cache must be memory, disk or None; got 'tape'"):
        make_cache("tape", 5, 100, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_forked_processes_share_entries(kind, tmp_path):
    cache = make_cache(kind, 3, 1 << 20, tmp_path)
    cache.put(0, array(0))

    def work() -> None:
        expect(cache, 0, array(0))
        cache.put(1, array(1))

    in_process(work)
    expect(cache, 1, array(1))
    cache.put(2, array(2))
    for slot in range(3):
        expect(cache, slot, array(slot))


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_write_at_once(kind, tmp_path):
    """The memory is too small for all entries, and several processes store the same ones."""
    cache = make_cache(kind, 200, 20_000, tmp_path)
    start = FORK.Barrier(3)

    def work() -> None:
        start.wait(60)
        for slot in range(200):
            if cache.get(slot) is None:
                cache.put(slot, array(slot, 1 + slot % 7))

    processes = [FORK.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    stored = [slot for slot in range(200) if cache.get(slot) is not None]
    assert len(stored) >= 50
    for slot in stored:
        expect(cache, slot, array(slot, 1 + slot % 7))


def test_a_full_disk_ends_caching(tmp_path):
    cache = make_cache("disk", 10, 0, tmp_path)
    cache.put(0, array(0))
    with no_space(200):
        cache.put(1, array(1))  # partly written
        cache.put(2, array(2))
    expect(cache, 0, array(0))
    for slot in (1, 2):
        assert cache.get(slot) is None


def cached(full: list[dict], path: Path, **options: object) -> FusionDataset:
    manifest = read_manifest(path)
    processor = Processor.fit(manifest, range(len(full)), CONFIG)
    return load_datasets(manifest, {"": range(len(full))}, processor, **options)[""]


def forget(folder: Path) -> None:
    """Remove the files of the rows: only cached ones can be read afterwards."""
    for number in range(20):
        for ending in ("png", "wav", "csv", "npy"):
            (folder / f"{number}.{ending}").unlink(missing_ok=True)


@pytest.mark.parametrize("options", [{"cache": "memory"}, {"cache": "disk"}], ids=KINDS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_datasets_read_files_once(full, save, tmp_path, options, num_workers):
    plain = cached(full, save(full))
    expected = plain.batch(range(20))
    dataset = cached(full, save(full), **options)
    list(BatchLoader(dataset, [[0, 1, 2], range(3, 20)], num_workers))
    forget(tmp_path)
    for name, value in dataset.batch(range(20)).items():
        assert value.equal(expected[name]), name


def test_the_parts_of_a_table_share_a_cache(rows, save, tmp_path):
    rows[15]["image"] = "3.png"
    manifest = read_manifest(save(rows))
    processor = Processor.fit(manifest, range(10), CONFIG)
    parts = {"train": range(10), "test": range(10, 20)}
    found = load_datasets(manifest, parts, processor, cache="memory")
    before = found["train"][3]["image"][0]
    (tmp_path / "3.png").unlink()
    assert np.array_equal(found["test"][5]["image"][0], before)


@pytest.mark.parametrize("options", [{"cache": "memory", "cache_size": 3000}, {"cache": "disk"}])
def test_what_does_not_fit_is_decoded_each_time(full, save, tmp_path, options):
    expected = cached(full, save(full))
    dataset = cached(full, save(full), folder=tmp_path, **options)
    with no_space(3000):
        same(dataset, expected)
        same(dataset, expected)
    images = dataset.media["image"]
    stored = [images.cache.get(slot) is not None for slot in range(len(images))]
    assert 0 < sum(stored) < len(stored)


def test_unknown_cache(rows, save):
    manifest = read_manifest(save(rows))
    processor = Processor.fit(manifest, range(20), CONFIG)
    with pytest.raises(ConfigError, match="cache must be memory, disk or None"):
        load_dataset(manifest, processor, cache="tape")
