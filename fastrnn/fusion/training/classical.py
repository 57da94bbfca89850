"""Baselines of scikit-learn: simple models that a fusion should beat.

- "text TF-IDF" ("text:title TF-IDF"): a linear model of a text's words and character n-grams,
  weighted by TF-IDF. A row that lacks the text has an empty one.
- "tabular boosting": gradient boosted trees of the tabular columns.
- "frozen features, linear head": a linear model of the trained main network's features.

A linear model is a logistic regression, or a ridge regression for numbers. The regularisation that
is best on the val rows is chosen. Steps have no such baselines. Large tables are thinned out for
the training, so that it takes minutes at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.console import Console
from torch import Tensor, nn

from .. import checkpoint
from ..batch import Batch
from ..config.inputs import of_modality
from ..config.schema import RunConfig
from ..data.dataset import FusionDataset
from ..inference import outputs as saved
from ..inference.loop import InferenceConfig, forward
from ..inference.outputs import Baseline, BaselineConfig, rows_of, score, with_truth
from ..models.network import FusionNetwork, LateNetwork
from . import estimators
from .estimators import Matrix, targets

_TEXT_STRENGTHS = (1.0, 10.0, 100.0)  # C
_FEATURE_STRENGTHS = (0.01, 0.1, 1.0)
_NGRAMS = (1, 5)  # lengths in characters
_ROWS = 50_000  # training rows
_LABELS = 1_000_000  # training rows times outputs of the task
_CHARACTERS = 10_000_000  # of all training texts
_WEIGHTS = 4_000_000  # of one linear model of words or of n-grams
_LEAST = 1_000  # training rows, or words and n-grams, with any number of labels
_CHUNK = 4096  # texts whose features are in memory at once
_BINS = 255  # most categories that a column may have in scikit-learn's trees

Datasets = Mapping[str, FusionDataset]


class Result(NamedTuple):
    """The outputs of a baseline by split, its regularisation, and its number of training rows."""

    outputs: dict[str, Tensor]
    train_rows: int
    C: float | None = None


def train_classical(
    folder: Path,
    datasets: Datasets,
    config: RunConfig,
    num_workers: int,
    device: torch.device,
    console: Console,
) -> None:
    """Train the baselines whose outputs are not in the run's folder yet, and save their outputs.

    Args:
        datasets: split name -> rows; "test" is optional.
        config: the run, whose main network is trained.
        num_workers: number of processes that decode files.
        device: where the main network computes its features.
    """
    processor = datasets["train"].processor
    if processor.task.per_step:
        return
    makers: dict[str, Callable[[], Result | None]] = {
        f"{name} TF-IDF": partial(_text, datasets, name)
        for name in of_modality(processor.modalities, "text")
    }
    if processor.tabular:
        makers["tabular boosting"] = partial(_boosting, datasets, config.train.seed)
    network = partial(checkpoint.load_network, folder, config.models[0])
    frozen = "frozen features, linear head"
    makers[frozen] = partial(_frozen, datasets, network, device, num_workers)
    for name, make in makers.items():
        if saved.exists(folder, name):
            continue
        start = time.perf_counter()
        result = make()
        if result is None:
            continue
        seconds = time.perf_counter() - start
        rows = {split: rows_of(datasets[split]) for split in result.outputs}
        about = BaselineConfig(
            name, result.train_rows, seconds, rows, result.C, network=name == frozen
        )
        saved.save(folder, Baseline(about, result.outputs))
        strength = "" if result.C is None else f", C {result.C:g} is best on val"
        console.out(f"{name}: {seconds:.1f} s{strength}", highlight=False)


def _text(datasets: Datasets, name: str) -> Result | None:
    """Train on a column of texts; None if the training rows have no text."""
    train = datasets["train"]
    total = pc.sum(pc.utf8_length(_column(train, name))).as_py()
    if not total:
        return None
    rows = _thinned(train, max(1, len(train) * _CHARACTERS // total))
    chosen = _texts(train, name, rows)
    vectorizer = _vectorizer(chosen, train.processor.task.num_outputs)
    if vectorizer is None:
        return None
    x = vectorizer.fit_transform(chosen)

    def parts(dataset: FusionDataset) -> Iterator[Matrix]:
        for start in range(0, len(dataset), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(dataset)))
            yield vectorizer.transform(_texts(dataset, name, rows))

    return _linear(datasets, rows, x, parts, _TEXT_STRENGTHS)


def _column(dataset: FusionDataset, name: str, rows: Sequence[int] | None = None) -> pa.Array:
    """Return the texts of some rows, or of all; a row may lack it."""
    chosen = dataset.rows if rows is None else dataset.rows[list(rows)]
    return dataset.manifest.rows.column(name).take(pa.array(chosen))


def _texts(dataset: FusionDataset, name: str, rows: Sequence[int]) -> list[str]:
    """Return the texts of some rows; "" if a row lacks it."""
    return [each or "" for each in _column(dataset, name, rows).to_pylist()]


def _vectorizer(texts: Sequence[str], outputs: int) -> Any:
    """Create the features of words and of character n-grams; None if no text has any."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    most = max(_LEAST, _WEIGHTS // outputs)
    each = {
        "words": TfidfVectorizer(max_features=most),
        "characters": TfidfVectorizer(analyzer="char_wb", ngram_range=_NGRAMS, max_features=most),
    }
    # A vectorizer rejects texts without a single word, such as digits.
    used = [pair for pair in each.items() if any(map(pair[1].build_analyzer(), texts))]
    return FeatureUnion(used) if used else None


def _boosting(datasets: Datasets, seed: int) -> Result:
    """Train on the tabular columns. A column with very many categories is read as numbers."""
    train = datasets["train"]
    task, rows = train.processor.task, _thinned(train)
    categorical = [False] * train.processor.numbers
    categorical += [0 < size <= _BINS for size in train.processor.categories]
    y = targets(train, rows)
    fitted = {"": estimators.boosting(task, _columns(train)[rows], y, categorical, seed)}
    found = {
        split: estimators.outputs(fitted, [_columns(dataset)])[""]
        for split, dataset in _others(datasets)
    }
    return Result(found, len(rows))


def _columns(dataset: FusionDataset) -> np.ndarray:
    """Return numbers, then the index of each category; NaN if not known: float64 [N, D]."""
    cells = dataset.cells
    assert cells is not None
    numbers = np.where(cells.known, cells.numbers, np.nan)
    categories = np.where(cells.categories > 0, cells.categories - 1.0, np.nan)
    return np.concatenate([numbers, categories], axis=1)


def _frozen(
    datasets: Datasets,
    load: Callable[[], checkpoint.Network],
    device: torch.device,
    num_workers: int,
) -> Result:
    """Train on the features of a network."""
    from sklearn.preprocessing import StandardScaler

    train, network = datasets["train"], _Pooled(load()).to(device)
    rows, scaler = _thinned(train), StandardScaler()

    def features(dataset: FusionDataset) -> Iterator[np.ndarray]:
        found = forward(network, dataset, InferenceConfig(num_workers=num_workers))
        return (each.cpu().double().numpy() for _, _, each in found)

    sample = train if len(rows) == len(train) else train.select(rows)
    x = scaler.fit_transform(np.concatenate(list(features(sample))))

    def parts(dataset: FusionDataset) -> Iterator[Matrix]:
        return map(scaler.transform, features(dataset))

    return _linear(datasets, rows, x, parts, _FEATURE_STRENGTHS)


class _Pooled(nn.Module):
    """The features of a network's inputs, averaged over steps and joined: [B, D]."""

    def __init__(self, network: checkpoint.Network) -> None:
        super().__init__()
        if isinstance(network, LateNetwork):
            self.networks = nn.ModuleList(network.networks.values())
        else:
            self.networks = nn.ModuleList([network])

    def forward(self, batch: Batch) -> Tensor:
        found: list[Tensor] = []
        for network in self.networks:
            assert isinstance(network, FusionNetwork)
            found.extend(network.pooled(network.encode(batch), batch).values())
        return torch.cat(found, dim=1)


def _linear(
    datasets: Datasets,
    rows: Sequence[int],
    x: Matrix,
    parts: Callable[[FusionDataset], Iterable[Matrix]],
    strengths: Sequence[float],
) -> Result:
    """Fit linear models, and return the outputs of the one with the best score on val.

    Args:
        rows, x: the training rows and their features.
        parts: returns the features of a dataset, in parts.
    """
    train = datasets["train"]
    fitted = estimators.linear(train.processor.task, x, targets(train, rows), strengths)
    found = {
        split: estimators.outputs(fitted, parts(dataset)) for split, dataset in _others(datasets)
    }
    val = datasets["val"]
    best = max(strengths, key=lambda each: score(with_truth(val, found["val"][each])))
    return Result({split: each[best] for split, each in found.items()}, len(rows), best)


def _others(datasets: Datasets) -> Iterator[tuple[str, FusionDataset]]:
    """Yield the splits that a baseline predicts."""
    for split, dataset in datasets.items():
        if split != "train" and len(dataset):
            yield split, dataset


def _thinned(dataset: FusionDataset, most: int = _ROWS) -> list[int]:
    """Return evenly spaced rows of a training set: all, if there are not too many."""
    labels = max(_LEAST, _LABELS // dataset.processor.task.num_outputs)
    count = min(len(dataset), most, _ROWS, labels)
    return [number * len(dataset) // count for number in range(count)]
