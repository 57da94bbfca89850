"""Test what a processor learns from the training rows, and that it is saved with all of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from fastrnn.fusion import (
    ConfigError,
    ManifestError,
    MediaError,
    Processor,
    load_dataset,
    read_manifest,
)
from tests.fusion.data.loaded import CONFIG, loaded, same


def test_series_are_standardised_by_the_training_rows(full, save):
    manifest = read_manifest(save(full))
    processor = Processor.fit(manifest, range(10), CONFIG)
    assert processor.variables == 2
    train = load_dataset(manifest, processor, range(10))
    values = np.concatenate([train[row]["series"] for row in range(10)]).astype(np.float64)
    # The mean of float32 numbers of size 1 is off by at most their rounding error, 2^-24.
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-6)
    other = load_dataset(manifest, processor, [12])[0]["series"]
    mean, deviation = np.array(processor.series).T
    np.testing.assert_allclose(other, (np.array(full[12]["series"]) - mean) / deviation, rtol=1e-6)


def test_constant_variable(rows, save):
    _, dataset = loaded(save([row | {"series": [[0.1, n]] * 3} for n, row in enumerate(rows)]))
    assert not dataset.batch(range(20))["series"][..., 0].any()


def test_one_variable_needs_no_inner_lists(rows, save):
    _, dataset = loaded(save([row | {"series": [1, 2.5, n]} for n, row in enumerate(rows)]))
    assert dataset.batch([0, 1])["series"].shape == (2, 3, 1)


def test_training_rows_need_each_modality(full, save):
    manifest = read_manifest(
        save([row | {"image": None} if n > 9 else row for n, row in enumerate(full)])
    )
    with pytest.raises(ManifestError, match="all training rows are empty in the column 'image'"):
        Processor.fit(manifest, range(10, 20), CONFIG)


def test_only_the_training_rows_are_read(rows, save):
    rows[15]["text"] = "a" * 30_000
    rows[3]["label"] = "seen"
    manifest = read_manifest(save(rows))
    processor = Processor.fit(manifest, range(10), CONFIG)
    assert processor.task.labels == ("no", "seen", "yes")
    assert Processor.fit(manifest, range(4, 14), CONFIG).task.labels == ("no", "yes")


@pytest.mark.parametrize("problem_type", ["binary", "regression", "multilabel"])
def test_saved_processor_gives_the_same_batches(full, save, tmp_path, problem_type):
    if problem_type == "regression":
        full = [row | {"label": number / 3} for number, row in enumerate(full)]
    manifest = read_manifest(save(full), problem_type=problem_type)
    processor = Processor.fit(manifest, range(20), CONFIG)
    processor.save(tmp_path)
    restored = Processor.load(tmp_path)
    assert restored.to_dict() == processor.to_dict()
    assert restored.task == processor.task
    assert restored.vocabulary == processor.vocabulary >= 256
    same(load_dataset(manifest, restored), load_dataset(manifest, processor))


def test_saved_processor_of_streams(streams, save, tmp_path):
    processor, dataset = loaded(save(streams))
    processor.save(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    same(load_dataset(dataset.manifest, Processor.load(tmp_path)), dataset)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["a", "b", "c"]}, "3 labels do not match the problem type binary"),
        ({"problem_type": "ordinal"}, "problem_type"),
        ({"modalities": ["video"]}, "modalities"),
        ({"series": [[0.0]]}, "series"),
        ({"series": [[0.0, 0.0]]}, "series"),
        ({"target": [0.0, 0.0]}, "target"),
        ({"series_columns": {"video": []}}, "a key of series_columns"),
        ({"preprocessing": {"../../secret": {}}}, "a key of preprocessing"),
    ],
)
def test_damaged_processor(full, save, tmp_path, change, said):
    processor, _ = loaded(save(full))
    processor.save(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=rf"processor_config\.json.*{said}"):
        Processor.load(tmp_path)


def test_processor_without_its_tokenizer(rows, save, tmp_path):
    processor, _ = loaded(save(rows))
    processor.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Processor.load(tmp_path)


def test_tokenizer_of_another_model(rows, save):
    manifest = read_manifest(save(rows))
    first = Processor.fit(manifest, range(20), CONFIG)
    other = Processor.fit(manifest, range(5), CONFIG, first.tokenizer)
    assert other.tokenizer is first.tokenizer


def test_long_text(rows, save):
    rows[3]["text"] = "a" * 30_000
    manifest = read_manifest(save(rows))
    with pytest.raises(MediaError, match=r"line 4: .*30000 characters"):
        Processor.fit(manifest, range(20), CONFIG)
    processor = Processor.fit(manifest, range(20), CONFIG, on_bad_row="skip")
    others = [row for row in range(20) if row != 3]
    expected = Processor.fit(manifest, others, CONFIG)
    assert processor.tokenizer.to_str() == expected.tokenizer.to_str()


@pytest.mark.parametrize("text", ["\0", "\x1b[31m", "🙂", "‮", " a ", "\ufeffx", "a" * 20_000])
def test_odd_texts_are_read(rows, save, text):
    rows[3]["text"] = text
    _, dataset = loaded(save(rows))
    assert 1 <= len(dataset[3]["text"]) <= CONFIG.max_tokens


def test_lone_surrogate_is_rejected(rows, save):
    rows[3]["text"] = "a\ud800b"
    with pytest.raises(ManifestError, match=r"line 4, column 'text': .*not valid Unicode; fix it"):
        loaded(save(rows))


def test_series_of_another_width(full, tmp_path):
    full[11]["series"] = [[1.0], [2.0]]
    manifest = read_manifest(pd.DataFrame(full), root=tmp_path)
    said = "DataFrame, row 11: a series of 1 variable, but others have 2; give all rows"
    with pytest.raises(MediaError, match=said):
        Processor.fit(manifest, range(20), CONFIG)
    processor = Processor.fit(manifest, range(20), CONFIG, on_bad_row="skip")
    others = [row for row in range(20) if row != 11]
    assert processor.series == Processor.fit(manifest, others, CONFIG).series


def test_fit_does_not_change_the_random_numbers(full, save):
    manifest = read_manifest(save(full))
    before = torch.get_rng_state()
    Processor.fit(manifest, range(20), CONFIG)
    assert torch.equal(before, torch.get_rng_state())
