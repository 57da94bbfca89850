"""Test the prediction of a table in consecutive parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastrnn.fusion import ConfigError, ManifestError
from fastrnn.fusion.inference.predictor import predict_file
from fastrnn.fusion.inference.shard import Shard

from .conftest import read


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_files_of_all_shards_are_the_file_of_the_table(predictor, rows, save, tmp_path, count):
    rows[9]["image"] = "gone.png"
    source, whole = save(rows), tmp_path / "whole.jsonl"
    predictor = replace(predictor, on_bad_row="skip")
    predict_file(predictor, source, whole, block=3)
    parts = [tmp_path / f"{number}.jsonl" for number in range(count)]
    for number, part in enumerate(parts, 1):
        predict_file(predictor, source, part, block=3, shard=Shard(number, count))
    assert b"".join(part.read_bytes() for part in parts) == whole.read_bytes()
    sizes = [len(read(part)) for part in parts]
    assert sum(sizes) == 20
    assert max(sizes) - min(sizes) <= 2 * 3  # a block more, and the last block is shorter


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize(("rows", "block"), [(0, 1), (1, 10), (99, 10), (100, 10), (101, 10)])
def test_shards_are_whole_blocks_in_order(count, rows, block):
    parts = [Shard(number, count).rows(rows, block) for number in range(1, count + 1)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert all(part.start % block == 0 for part in parts if part)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "1/2/3", "-1/2", "1.0/2", "", "a/b"])
def test_shards_that_do_not_exist(text):
    with pytest.raises(ConfigError, match=r"shard|index must be|count must be"):
        Shard.of(text)


def test_an_empty_table_has_no_shard(predictor, tmp_path):
    (tmp_path / "empty.csv").write_text("image,audio,text\n")
    with pytest.raises(ManifestError, match="the table has no rows"):
        predict_file(predictor, tmp_path / "empty.csv", tmp_path / "a.jsonl", shard=Shard(1, 2))
