"""A small predictor, and the files that it writes."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from fastrnn.fusion import DataConfig, FitConfig, TrainConfig, fit, load, read_manifest
from fastrnn.fusion.inference.predictor import Predictor

from ..conftest import write_jsonl, write_rows

OPTIONS = {"width": 16, "hidden": 16, "conv": (4, 8), "grid": 2, "strides": (2,)}
DATA = DataConfig(image_size=8, sample_rate=8000, mels=12)


def trained(path, folder, problem_type=None, **options):
    """Train for one epoch and return a Predictor."""
    train = TrainConfig(epochs=1, batch_size=8)
    config = FitConfig(DATA, OPTIONS | options, train, baselines=False)
    table = read_manifest(path, problem_type=problem_type)
    fit(table, folder, config, console=Console(quiet=True))
    return Predictor(*load(folder))


@pytest.fixture(scope="session")
def run_of_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    path = write_jsonl(folder / "manifest.jsonl", write_rows(folder))
    trained(path, folder / "run", modality_dropout=0.1)
    return folder / "run"


@pytest.fixture
def predictor(run_of_rows):
    """A predictor for image, audio and text, any of which may be missing."""
    return Predictor(*load(run_of_rows))


def read(path):
    if path.suffix == ".parquet":
        records = pq.read_table(path).to_pylist()
        return [{name: each for name, each in row.items() if each is not None} for row in records]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
