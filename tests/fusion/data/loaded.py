"""Read a table with a processor that is fitted on all of its rows, and compare datasets."""

from __future__ import annotations

from typing import Any

import torch

from fastrnn.fusion import DataConfig, FusionDataset, Processor, load_dataset, read_manifest
from fastrnn.fusion.batch import Batch

CONFIG = DataConfig(image_size=8, sample_rate=8000, mels=12)


def loaded(source: Any, **named: Any) -> tuple[Processor, FusionDataset]:
    """Return a processor fitted on every row of a table, and the dataset of all rows."""
    manifest = read_manifest(source, **named)
    processor = Processor.fit(manifest, range(len(manifest)), CONFIG)
    return processor, load_dataset(manifest, processor)


def same_batch(one: Batch, other: Batch) -> None:
    """Assert that two batches are equal, bit for bit."""
    assert set(one) == set(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def same(one: FusionDataset, other: FusionDataset) -> None:
    """Assert that two datasets have the same rows, bit for bit."""
    same_batch(*(each.batch(range(len(each))) for each in (one, other)))
