"""Test loading batches and checking files, with and without worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fastrnn.fusion import (
    ConfigError,
    DataError,
    FusionDataset,
    Manifest,
    MediaError,
    Processor,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.data.loader import BatchLoader, check_files
from tests.fusion.data.loaded import CONFIG, loaded, same, same_batch

BATCHES = [[3, 1, 4], [1, 5, 9, 2, 6], [19], [0, 0]]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_come_in_order(full, save, num_workers):
    _, dataset = loaded(save(full))
    loader = BatchLoader(dataset, BATCHES, num_workers)
    for _ in range(2):  # passes
        for rows, batch in zip(BATCHES, loader, strict=True):
            same_batch(batch, dataset.batch(rows))


def test_batches_of_streams_from_workers(streams, save):
    streams[2]["image"], streams[3]["audio"] = None, None
    _, dataset = loaded(save(streams))
    for rows, batch in zip(BATCHES, BatchLoader(dataset, BATCHES, 2), strict=True):
        same_batch(batch, dataset.batch(rows))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_pass_asks_for_its_batches(rows, save, num_workers):
    class Sampler:
        first = 0

        def __iter__(self):
            yield from ([self.first], [0, self.first])

        def __len__(self):
            return 2

    _, dataset = loaded(save(rows))
    sampler = Sampler()
    loader = BatchLoader(dataset, sampler, num_workers)
    for sampler.first in (1, 2, 5):
        for chosen, batch in zip(sampler, loader, strict=True):
            same_batch(batch, dataset.batch(chosen))


def test_negative_num_workers(rows, save):
    _, dataset = loaded(save(rows))
    with pytest.raises(ConfigError, match="num_workers must be at least 0; got -1"):
        BatchLoader(dataset, BATCHES, -1)
    with pytest.raises(ConfigError, match="num_workers must be at least 0; got -1"):
        check_files(dataset, num_workers=-1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_random_numbers_and_threads_stay(full, save, num_workers):
    _, dataset = loaded(save(full))
    torch.set_num_threads(2)  # must not change the values either
    before = torch.get_rng_state()
    here = dataset.batch([0, 1, 2])
    (there,) = BatchLoader(dataset, [[0, 1, 2]], num_workers)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    same_batch(here, there)
    same_batch(here, dataset.batch([0, 1, 2]))


def test_an_error_in_a_worker_has_the_same_message(rows, save, tmp_path):
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:60])
    (tmp_path / "9.wav").unlink()
    _, dataset = loaded(save(rows))
    batches = [[0, 1], [2, 9, 5], [5], [3]]
    errors = []
    for num_workers in (0, 2):
        loader = iter(BatchLoader(dataset, batches, num_workers))
        next(loader)  # has no bad row
        with pytest.raises(MediaError) as caught:
            next(loader)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert "manifest.jsonl, line 10: there is no file '9.wav'" in str(errors[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_after_an_error(rows, save, tmp_path, num_workers):
    data = (tmp_path / "5.png").read_bytes()
    (tmp_path / "5.png").write_bytes(b"")
    _, dataset = loaded(save(rows))
    loader = BatchLoader(dataset, [[0, 1], [5], [6]], num_workers)
    with pytest.raises(MediaError, match="line 6"):
        list(loader)
    (tmp_path / "5.png").write_bytes(data)
    for chosen, batch in zip([[0, 1], [5], [6]], loader, strict=True):
        same_batch(batch, dataset.batch(chosen))


def damaged(rows: list[dict[str, Any]], folder: Path) -> Manifest:
    """Make rows 2, 5, 7, 11 and 13 unusable, each for a different reason."""
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    (folder / "5.wav").write_bytes(b"RIFF")
    rows[7]["text"] = "a" * 30_000
    rows[11]["series"] = [[1.0], [2.0]]
    np.save(folder / "13.npy", np.zeros((3, 5)))
    rows[13]["series"] = "13.npy"
    return read_manifest(pd.DataFrame(rows), root=folder)


BAD = {
    2: r"2\.png: the image is damaged .*replace the file, or remove the row",
    5: r"5\.wav: the audio cannot be read .*replace the file, or remove the row",
    7: "has 30000 characters, .*shorten it",
    11: "the series has 1 variable, but 2 in training; give all rows the same",
    13: r"13\.npy: the series has 5 variables, but 2 in training; give all rows the same",
}
GOOD = [row for row in range(20) if row not in BAD]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_rows_are_left_out_and_listed(full, tmp_path, num_workers):
    manifest = damaged(full, tmp_path)
    processor = Processor.fit(manifest, range(20), CONFIG, on_bad_row="skip")
    dataset = load_dataset(manifest, processor, on_bad_row="skip", cache="memory")
    cells = [7, 11]  # found without opening a file
    assert [where for where, _ in dataset.skipped] == [f"row {row}" for row in cells]
    checked = check_files(dataset, "skip", num_workers)
    listed = dict(checked.skipped)
    assert set(listed) == {f"row {row}" for row in BAD}
    for row, said in BAD.items():
        with pytest.raises(MediaError, match=f"^DataFrame, row {row}: .*{said}"):
            raise MediaError(listed[f"row {row}"])
    assert checked.rows.tolist() == GOOD
    same(checked, load_dataset(manifest, processor, GOOD))
    assert checked.where(2) == "row 3"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_first_bad_row_is_named(full, tmp_path, num_workers):
    manifest = damaged(full, tmp_path)
    processor = Processor.fit(manifest, range(20), CONFIG, on_bad_row="skip")

    def check(*rows: int) -> FusionDataset:
        return check_files(load_dataset(manifest, processor, rows), "error", num_workers)

    for row, said in BAD.items():
        with pytest.raises(MediaError, match=f"^DataFrame, row {row}: .*{said}"):
            check(0, row)
    with pytest.raises(MediaError, match="row 2: "):
        check(0, 2, 5, 13)
    with pytest.raises(MediaError, match="row 7: "):  # cells are checked first
        check(2, 5, 7, 11)
    dataset = load_dataset(manifest, processor, GOOD)
    assert check_files(dataset, "error", num_workers) is dataset
    with pytest.raises(ConfigError, match="on_bad_row must be one of error, skip; got 'ignore'"):
        check_files(dataset, "ignore", num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_usable_row(rows, save, tmp_path, num_workers):
    processor, _ = loaded(save(rows))
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"")
    dataset = load_dataset(read_manifest(save(rows)), processor, range(3))
    with pytest.raises(DataError, match=r"no row can be used; the first error: .*line 1: .*0\.png"):
        check_files(dataset, "skip", num_workers)
    unlabelled = load_dataset(read_manifest(save(rows), labelled=False), processor, range(3))
    checked = check_files(unlabelled, "skip", num_workers)
    assert (len(checked), len(checked.skipped)) == (0, 3)


def test_a_row_of_a_checked_stream_keeps_its_labels_and_steps(streams, save, tmp_path):
    (tmp_path / "2.wav").write_bytes(b"")
    _, dataset = loaded(save(streams))
    checked = check_files(dataset, "skip")
    assert [where for where, _ in checked.skipped] == ["line 3"]
    others = [row for row in range(20) if row != 2]
    same_batch(checked.batch(range(19)), dataset.batch(others))
    assert checked.steps.tolist() == dataset.steps[others].tolist()
    assert torch.equal(checked.masses(), dataset.masses()[others])
