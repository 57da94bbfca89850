"""A small predictor, and the files that it writes."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from fastrnn.fusion import DataConfig, FitConfig, TrainConfig, fit, load, read_manifest
from fastrnn.fusion.inference.predictor import Predictor

OPTIONS = {"width": 16, "hidden": 16, "conv": (4, 8), "grid": 2, "strides": (2,)}
DATA = DataConfig(image_size=8, sample_rate=8000, mels=12)


def trained(path, folder, problem_type=None, **options):
    """Train for one epoch and return a Predictor."""
    train = TrainConfig(epochs=1, batch_size=8)
    config = FitConfig(DATA, OPTIONS | options, train, baselines=False)
    table = read_manifest(path, problem_type=problem_type)
    fit(table, folder, config, console=Console(quiet=True))
    return Predictor(*load(folder))


@pytest.fixture
def predictor(rows, save, tmp_path):
    """A predictor for image, audio and text, any of which may be missing."""
    return trained(save(rows), tmp_path / "run", modality_dropout=0.1)


def read(path):
    if path.suffix == ".parquet":
        records = pq.read_table(path).to_pylist()
        return [{name: each for name, each in row.items() if each is not None} for row in records]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
