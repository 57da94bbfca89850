"""Preprocessor and Examples: missing inputs, every problem_type of label, bad rows, workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fastrnn.fusion.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig
from fastrnn.fusion.data.manifest import Manifest, read_manifest
from fastrnn.fusion.data.processor import Examples, Preprocessor
from fastrnn.fusion.errors import ConfigError, DataError, ManifestError, MediaError

CONFIG = DataConfig(image_size=8, sample_rate=8000, mels=12)
EVERYTHING = ("audio", "image", "series", "text")


def loaded(source: Any, **named: Any) -> tuple[Preprocessor, Examples]:
    """Return a preprocessor fitted on every row, and every row decoded."""
    manifest = read_manifest(source, **named)
    everything = range(len(manifest.rows))
    preprocessor = Preprocessor.fit(manifest, everything, CONFIG)
    return preprocessor, preprocessor.load(manifest, everything)


def same(one: Examples, other: Examples) -> None:
    """Assert that both hold the same rows, bit for bit."""
    a, b = (each.collate(range(len(each))) for each in (one, other))
    assert set(a) == set(b)
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture
def full(rows, tmp_path) -> list[dict[str, Any]]:
    """The rows with a series of two variables: a list, a .csv file or a .npy file."""
    dice = np.random.default_rng(0)
    for number, row in enumerate(rows):
        values = dice.normal((3, -20), (2, 0.5), (3 + number % 5, 2)).round(3)
        if number % 3 == 0:
            row["series"] = values.tolist()
            continue
        row["series"] = f"{number}.{'csv' if number % 3 == 1 else 'npy'}"
        if number % 3 == 1:
            pd.DataFrame(values, columns=["p", "q"]).to_csv(tmp_path / row["series"], index=False)
        else:
            np.save(tmp_path / row["series"], values)
    return rows


def test_batch_of_all_modalities(full, save):
    preprocessor, examples = loaded(save(full))
    batch = examples.collate([0, 4, 4])
    assert preprocessor.variables == 2
    assert batch["series"].shape == (3, 7, 2)
    assert batch["series"].dtype == torch.float32
    assert batch["series_lengths"].tolist() == [3, 7, 7]
    assert not any(name.endswith("_present") for name in batch)
    assert examples.rows == tuple(range(20))


def test_series_are_standardised_by_the_training_rows(full, save):
    manifest = read_manifest(save(full))
    preprocessor = Preprocessor.fit(manifest, range(10), CONFIG)
    train = torch.cat(list(preprocessor.load(manifest, range(10)).series))
    # The mean of float32 numbers of size 1 is off by at most their rounding error, 2^-24.
    torch.testing.assert_close(train.double().mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        train.double().std(0, unbiased=False), torch.ones(2).double(), atol=1e-6, rtol=0
    )
    other = preprocessor.load(manifest, [12]).series[0]
    values = torch.tensor(full[12]["series"])
    mean, deviation = torch.tensor(preprocessor.series).T
    torch.testing.assert_close(other, (values - mean) / deviation)


def test_constant_variable(rows, save):
    _, examples = loaded(save([row | {"series": [[0.1, n]] * 3} for n, row in enumerate(rows)]))
    assert all((each[:, 0] == 0).all() for each in examples.series)


def test_one_variable_needs_no_inner_lists(rows, save):
    _, examples = loaded(save([row | {"series": [1, 2.5, n]} for n, row in enumerate(rows)]))
    assert examples.collate([0, 1])["series"].shape == (2, 3, 1)


@pytest.mark.parametrize("name", EVERYTHING)
def test_missing_modality(full, save, name):
    for number in (1, 4):
        full[number][name] = None
    _, examples = loaded(save(full))
    batch = examples.collate([1, 2, 4])
    assert batch[f"{name}_present"].tolist() == [False, True, False]
    assert batch[f"{name}_present"].dtype == torch.bool
    assert [key for key in batch if key.endswith("_present")] == [f"{name}_present"]
    if name == "image":
        assert batch["image"].tolist() == [0, 0, 0]
        assert len(batch["frames"]) == 1  # no image is encoded for rows that lack one
    else:
        assert batch[f"{name}_lengths"][[0, 2]].tolist() == [1, 1]
        assert not batch[name][[0, 2]].any()
        assert batch[name][1].any()
    # A batch without missing rows has the key too, since the network expects it.
    assert examples.collate([2, 3])[f"{name}_present"].all()


@pytest.mark.parametrize("name", EVERYTHING)
def test_batch_without_a_modality(full, save, name):
    full[1][name] = None
    _, examples = loaded(save(full))
    batch = examples.collate([1, 1])
    assert not batch[f"{name}_present"].any()
    assert all(len(batch[key]) == 2 for key in ("image", "audio", "text", "series", "label"))
    assert len(batch["frames"]) == 1


def test_split_without_a_modality(full, save):
    manifest = read_manifest(
        save([row | {"image": None} if n > 9 else row for n, row in enumerate(full)])
    )
    preprocessor = Preprocessor.fit(manifest, range(10), CONFIG)
    batch = preprocessor.load(manifest, range(10, 20)).collate([0, 5])
    assert batch["frames"].shape == (1, 3, 8, 8)
    assert not batch["image_present"].any()
    with pytest.raises(ManifestError, match="all training rows are empty in the column 'image'"):
        Preprocessor.fit(manifest, range(10, 20), CONFIG)


def test_missing_in_streams(streams, save):
    streams[2]["image"], streams[3]["audio"] = None, None
    _, examples = loaded(save(streams))
    batch = examples.collate([1, 2, 3])
    assert batch["image"].shape == (3, 4)
    assert batch["steps"].sum(1).tolist() == [2, 3, 4]
    assert batch["image_present"].tolist() == [True, False, True]
    assert batch["audio_present"].tolist() == [True, True, False]
    assert int(batch["image"].max()) < len(batch["frames"])


def test_stream_model_reads_rows_without_lists(streams, save):
    preprocessor, _ = loaded(save(streams))
    rows = [{"image": None, "audio": row["audio"]} for row in streams]
    manifest = read_manifest(save(rows), labelled=False)
    assert not manifest.stream  # cannot be inferred from this table
    batch = preprocessor.load(manifest, range(20)).collate([0, 1])
    assert batch["steps"].tolist() == [[True], [True]]
    assert batch["image"].shape == (2, 1)


def test_single_image_model_rejects_lists(rows, streams, save):
    preprocessor, _ = loaded(save([{"image": r["image"], "label": r["label"]} for r in rows]))
    manifest = read_manifest(save(streams), labelled=False)
    with pytest.raises(ManifestError, match="the model reads one image per row; write one"):
        preprocessor.load(manifest, range(20))


def test_column_of_the_model_is_required(full, save):
    preprocessor, _ = loaded(save(full))
    without = [{key: row[key] for key in ("text", "audio", "image")} for row in full]
    manifest = read_manifest(save(without), labelled=False)
    with pytest.raises(ManifestError, match=r"the model reads series.*--series, or add an empty"):
        preprocessor.load(manifest, range(20))
    table = pd.DataFrame(without).assign(series=None)
    batch = preprocessor.load(
        read_manifest(table, root=manifest.root, labelled=False), range(20)
    ).collate([0, 1])
    assert batch["series"].shape == (2, 1, 2)
    assert not batch["series_present"].any()


def test_other_columns_are_ignored(rows, save):
    texts = [{"text": row["text"], "label": row["label"]} for row in rows]
    preprocessor, _ = loaded(save(texts))
    rows[3] |= {"text": None}
    manifest = read_manifest(save(rows))
    assert set(preprocessor.load(manifest, [1, 2]).collate([0, 1])) == {
        "text", "text_lengths", "label"
    }  # fmt: skip
    with pytest.raises(ManifestError, match="line 4: no value for text; fill one"):
        preprocessor.load(manifest, [3])


def test_restore_from_a_run(full, save):
    rows = [row | {"label": number / 3} for number, row in enumerate(full)]
    manifest = read_manifest(save(rows), problem_type="regression")
    preprocessor = Preprocessor.fit(manifest, range(20), CONFIG)
    model = ModelConfig(
        manifest.modalities,
        problem_type="regression",
        vocabulary=preprocessor.vocabulary,
        variables=2,
    )
    config = RunConfig(
        CONFIG,
        model,
        TrainConfig(),
        preprocessor.labels,
        target=preprocessor.target,
        series=preprocessor.series,
    )
    config = RunConfig.from_json(json.loads(json.dumps(config.to_json())))
    restored = Preprocessor.restore(config, preprocessor.tokenizer)
    assert restored == preprocessor
    same(restored.load(manifest, range(20)), preprocessor.load(manifest, range(20)))


def test_tokenizer_of_another_model(rows, save):
    manifest = read_manifest(save(rows))
    first = Preprocessor.fit(manifest, range(20), CONFIG)
    other = Preprocessor.fit(manifest, range(5), CONFIG, first.tokenizer)
    assert other.tokenizer is first.tokenizer


def damage(rows: list[dict[str, Any]], folder: Path) -> Manifest:
    """Make rows 2, 5, 7 and 11 unusable, each for a different reason."""
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    (folder / "5.wav").write_bytes(b"RIFF")
    rows[7]["text"] = "a" * 30_000
    rows[11]["series"] = [[1.0], [2.0]]
    return read_manifest(pd.DataFrame(rows), root=folder)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_rows_are_left_out_and_listed(full, tmp_path, num_workers):
    manifest = damage(full, tmp_path)
    preprocessor = Preprocessor.fit(manifest, range(20), CONFIG, on_bad_row="skip")
    examples = preprocessor.load(manifest, range(20), on_bad_row="skip", num_workers=num_workers)
    assert [where for where, _ in examples.skipped] == ["row 2", "row 5", "row 7", "row 11"]
    for (_, error), text in zip(
        examples.skipped,
        (
            "2.png: the image is damaged",
            "5.wav: the audio cannot be read",
            "30000 characters",
            "1 variable,",
        ),
        strict=True,
    ):
        assert error.startswith("DataFrame, row ")
        assert text in error
    good = [row for row in range(20) if row not in (2, 5, 7, 11)]
    assert examples.rows == tuple(good)
    same(examples, preprocessor.load(manifest, good))


def test_first_bad_row_is_named(full, tmp_path):
    manifest = damage(full, tmp_path)
    preprocessor = Preprocessor.fit(manifest, range(20), CONFIG, on_bad_row="skip")
    for rows, text in (
        (range(20), r"DataFrame, row 2: .*2\.png.*replace the file, or remove the row"),
        (range(3, 20), r"DataFrame, row 5: .*5\.wav.*replace the file, or remove the row"),
        (range(6, 20), "DataFrame, row 7: .*shorten it"),
        (range(8, 20), "DataFrame, row 11: .*give all rows the same"),
    ):
        with pytest.raises(MediaError, match=text):
            preprocessor.load(manifest, rows)
    with pytest.raises(MediaError, match="row 5"):
        preprocessor.load(manifest, range(3, 20), num_workers=2)
    with pytest.raises(MediaError, match="row 7"):
        Preprocessor.fit(manifest, range(20), CONFIG)


def test_no_usable_row(rows, save, tmp_path):
    preprocessor, _ = loaded(save(rows))
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"")
    manifest = read_manifest(save(rows))
    with pytest.raises(DataError, match=r"no row can be used; the first error: .*line 1: .*0\.png"):
        preprocessor.load(manifest, range(3), on_bad_row="skip")
    manifest = read_manifest(save(rows), labelled=False)
    examples = preprocessor.load(manifest, range(3), on_bad_row="skip")
    assert (len(examples), len(examples.skipped)) == (0, 3)


def test_results_do_not_depend_on_workers(full, save):
    manifest = read_manifest(save(full))
    torch.set_num_threads(2)  # must not change the values either
    preprocessor = Preprocessor.fit(manifest, range(20), CONFIG, num_workers=2)
    assert preprocessor.series == Preprocessor.fit(manifest, range(20), CONFIG).series
    before = torch.get_rng_state()
    here = preprocessor.load(manifest, range(20))
    there = preprocessor.load(manifest, range(20), num_workers=2)
    same(here, there)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 2
    with pytest.raises(ConfigError, match="at least 0"):
        preprocessor.load(manifest, range(20), num_workers=-1)


def test_loaders_with_workers_give_the_same_batches(rows, save):
    _, examples = loaded(save(rows))
    several = [
        list(examples.loader(6, torch.Generator().manual_seed(3), num_workers))
        for num_workers in (0, 2)
    ]
    order = [batch["label"].tolist() for batch in several[0]]
    for one, other in zip(*several, strict=True):
        assert set(one) == set(other)
        for name, value in one.items():
            assert torch.equal(value, other[name])
    again = examples.loader(6, torch.Generator().manual_seed(4))
    assert order != [batch["label"].tolist() for batch in again]


@pytest.mark.parametrize("text", ["\0", "\x1b[31m", "🙂", "‮", " a ", "\ufeffx", "a" * 20_000])
def test_odd_texts_are_read(rows, save, text):
    rows[3]["text"] = text
    _, examples = loaded(save(rows))
    assert 1 <= len(examples.text[3]) <= CONFIG.max_tokens


def test_lone_surrogate_is_rejected(rows, save):
    rows[3]["text"] = "a\ud800b"
    with pytest.raises(MediaError, match=r"line 4: .*not valid Unicode; fix it"):
        loaded(save(rows))


def test_megabytes(full, save):
    _, examples = loaded(save(full))
    series = sum(each.numel() for each in examples.series) * 4
    audio = sum(each.numel() for each in examples.audio) * 4
    text = sum(each.numel() for each in examples.text) * 8
    assert examples.megabytes == pytest.approx((20 * 3 * 8 * 8 + series + audio + text) / 1e6)
