"""Random tables: batches agree with an implementation that handles one row after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastrnn.fusion import FusionDataset, Processor, load_dataset, read_manifest
from fastrnn.fusion.batch import IGNORE, Batch
from fastrnn.fusion.data.audio import log_mel, read_audio
from fastrnn.fusion.data.image import read_image
from fastrnn.fusion.data.ngrams import ngrams
from fastrnn.fusion.data.timeseries import read_series
from tests.fusion.conftest import write_clip, write_image
from tests.fusion.data.loaded import CONFIG, same_batch

Row = dict[str, Any]
FILES = 4  # of each kind
NAMES = ("a", "b", "c")
MODALITIES = ("audio", "image", "series", "text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    for number in range(FILES):
        write_image(path / f"{number}.png", number)
        write_clip(path / f"{number}.wav", 0.05 + 0.03 * number)
        np.save(path / f"{number}.npy", np.random.default_rng(number).normal(size=(2 + number, 2)))
    return path


def cells(draw: st.DrawFn, stream: bool, problem_type: str) -> Row:
    """Draw a row with at least one modality."""
    number = st.integers(0, FILES - 1)
    row: Row = {
        "image": draw(st.none() | number.map("{}.png".format)),
        "audio": draw(st.none() | number.map("{}.wav".format)),
        "series": draw(
            st.none()
            | number.map("{}.npy".format)
            | st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 9)), min_size=1, max_size=3)
        ),
        "text": draw(st.none() | st.text("ab é", max_size=9).map(str.strip).filter(bool)),
    }
    if all(each is None for each in row.values()):
        row["text"] = "only"
    steps = draw(st.integers(1, 4))
    if stream and row["image"]:
        count = draw(st.sampled_from([1, steps]))  # one image, or one for each step
        row["image"] = draw(st.lists(number.map("{}.png".format), min_size=count, max_size=count))
        steps = steps if problem_type == "steps" else count
    name = st.sampled_from(NAMES)
    if problem_type == "steps":
        label: Any = draw(st.lists(st.none() | name, min_size=steps, max_size=steps))
        row["label"] = label if any(label) else ["a", *label[1:]]
    elif problem_type == "multilabel":
        row["label"] = draw(st.lists(name, unique=True))
    elif problem_type == "regression":
        row["label"] = draw(st.integers(-100, 100)) / 7
    else:
        row["label"] = draw(name)
    return row


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[Row], list[int]]:
    """Draw a problem type, rows, and the rows of a batch."""
    problem_type = draw(st.sampled_from(["multiclass", "multilabel", "regression", "steps"]))
    stream = problem_type == "steps" or (problem_type != "multilabel" and draw(st.booleans()))
    rows = [cells(draw, stream, problem_type) for _ in range(draw(st.integers(1, 6)))]
    whole: Row = {"image": "0.png", "audio": "0.wav", "series": "0.npy", "text": "a b"}
    for label in NAMES:  # the processor needs each modality and each label
        values = {"steps": [label], "multilabel": [label], "regression": ord(label)}
        rows.append(whole | {"label": values.get(problem_type, label)})
        if stream:
            rows[-1]["image"] = ["0.png"]
    chosen = draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    return problem_type, rows, chosen


def steps_of(row: Row, per_step: bool) -> int:
    return max(len(row["label"]) if per_step else 1, len(row["image"] or [0]))


def value(name: str, row: Row, processor: Processor, folder: Path) -> np.ndarray:
    """Return the sequence of a row's audio, series or text; a placeholder if it has none."""
    cell = row[name]
    if name == "audio":
        if cell is None:
            return np.zeros((1, CONFIG.mels), np.float32)
        return log_mel(read_audio(folder / cell, CONFIG), CONFIG).numpy()
    if name == "text":
        return np.array([0] if cell is None else processor.tokenizer.encode(cell).ids)
    if cell is None:
        return np.zeros((1, 2), np.float32)
    values = read_series(folder / cell, CONFIG) if isinstance(cell, str) else np.array(cell)
    mean, deviation = np.array(processor.series).T
    return ((values - mean) / deviation).astype(np.float32)


def padded(values: list[np.ndarray], filler: float = 0) -> Tensor:
    shape = (len(values), max(map(len, values)), *values[0].shape[1:])
    result = np.full(shape, filler, values[0].dtype)
    for row, each in enumerate(values):
        result[row, : len(each)] = each
    return torch.from_numpy(result)


def label_of(row: Row, processor: Processor, problem_type: str) -> np.ndarray:
    label = row["label"]
    if problem_type == "regression":
        mean, deviation = processor.task.scale
        return np.float32((label - mean) / deviation)
    if problem_type == "multilabel":
        return np.array([float(name in label) for name in NAMES], np.float32)
    if problem_type == "steps":
        return np.array([IGNORE if name is None else NAMES.index(name) for name in label])
    return np.int64(NAMES.index(label))


def reference(dataset: FusionDataset, rows: list[Row], chosen: list[int]) -> Batch:
    """Make a batch by the table in batch.py, but without `frames` and `image`."""
    processor, folder = dataset.processor, dataset.manifest.root
    problem_type = processor.task.problem_type
    some = [rows[each] for each in chosen]
    batch: Batch = {}
    steps = processor.task.per_step
    for name in MODALITIES:
        if name != "image":
            values = [value(name, row, processor, folder) for row in some]
            batch[name] = padded(values)
            batch[f"{name}_lengths"] = torch.tensor([len(each) for each in values])
        if name == "text":  # test_ngrams.py checks the n-grams themselves
            found = [ngrams(row["text"] or "", CONFIG.ngrams) for row in some]
            batch["text_ngrams"] = padded([numbers for numbers, _ in found])
            batch["text_ngram_weights"] = padded([weights for _, weights in found])
        if any(row[name] is None for row in rows):
            batch[f"{name}_present"] = torch.tensor([row[name] is not None for row in some])
    if processor.stream:
        batch["steps"] = padded([np.ones(steps_of(row, steps), bool) for row in some])
    labels = [label_of(row, processor, problem_type) for row in some]
    batch["label"] = padded(labels, IGNORE) if steps else torch.from_numpy(np.stack(labels))
    return batch


def check_images(batch: Batch, some: list[Row], processor: Processor, folder: Path) -> None:
    """Check that `image` leads to the right frame of each step, and each frame is there once."""
    used: dict[str, int] = {}
    index = batch["image"] if processor.stream else batch["image"][:, None]
    for row, places in zip(some, index.tolist(), strict=True):
        if not row["image"]:
            continue
        names = row["image"] if processor.stream else [row["image"]]
        if processor.stream and len(names) == 1:  # one image at every step
            names = names * steps_of(row, processor.task.per_step)
        for name, place in zip(names, places[: len(names)], strict=True):
            expected = torch.from_numpy(read_image(folder / name, CONFIG))
            assert torch.equal(batch["image_frames"][place], expected)
            assert used.setdefault(name, place) == place
    assert len(batch["image_frames"]) == max(1, len(set(used.values())))
    assert len(set(used.values())) == len(used)
    assert ((index >= 0) & (index < len(batch["image_frames"]))).all()


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tables())
def test_batches_agree_with_the_reference(folder, table):
    problem_type, rows, chosen = table
    frame = pd.DataFrame(rows, dtype=object)
    manifest = read_manifest(frame, root=folder, problem_type=problem_type)
    processor = Processor.fit(manifest, range(len(rows)), CONFIG)
    dataset = load_dataset(manifest, processor)
    batch = dataset.batch(chosen)
    expected = reference(dataset, rows, chosen)
    check_images(batch, [rows[each] for each in chosen], processor, folder)
    del batch["image_frames"], batch["image"]
    same_batch(batch, expected)
