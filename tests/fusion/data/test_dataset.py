"""Test samples and batches of a dataset: every modality, streams, missing values, its memory."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from fastrnn.fusion import ManifestError, MediaError, Processor, load_dataset, read_manifest
from fastrnn.fusion.batch import IGNORE
from tests.fusion.data.loaded import CONFIG, loaded, same_batch

EVERYTHING = ("audio", "image", "series", "text")


def test_sample(full, save):
    processor, dataset = loaded(save(full))
    sample = dataset[4]
    assert (sample["row"], sample["steps"], sample["label"]) == (4, 1, 0)
    (image,) = sample["image"]
    assert (image.dtype, image.shape) == (np.uint8, (3, 8, 8))
    assert (sample["audio"].dtype, sample["audio"].shape) == (np.float32, (19, 12))
    assert (sample["series"].dtype, sample["series"].shape) == (np.float32, (7, 2))
    assert sample["text"].tolist() == processor.tokenizer.encode(full[4]["text"]).ids
    assert len(dataset) == 20
    for row in (20, -1):
        with pytest.raises(IndexError):
            dataset[row]


def test_batch_of_all_modalities(full, save):
    _, dataset = loaded(save(full))
    batch = dataset.batch([0, 4, 4])
    assert batch["series"].shape == (3, 7, 2)
    assert batch["series"].dtype == torch.float32
    assert batch["series_lengths"].tolist() == [3, 7, 7]
    assert not any(name.endswith("_present") for name in batch)
    assert "steps" not in batch
    assert dataset.rows.tolist() == list(range(20))


def test_a_repeated_image_is_once_in_a_batch(full, save):
    full[7]["image"] = "./4.png"
    _, dataset = loaded(save(full))
    batch = dataset.batch([4, 1, 7, 4])
    assert batch["image"].tolist() == [1, 0, 1, 1]  # in the order of the files
    assert len(batch["image_frames"]) == 2


def test_one_image_at_every_step(streams, save):
    streams[1] = {"image": ["3.png"], "audio": "1.wav", "label": ["0", None, "2"]}
    _, dataset = loaded(save(streams))
    batch = dataset.batch([0, 1])
    assert batch["steps"].tolist() == [[True, False, False], [True, True, True]]
    assert batch["image"][1].tolist() == [1, 1, 1]
    assert batch["label"].tolist() == [[0, IGNORE, IGNORE], [0, IGNORE, 2]]
    assert len(batch["image_frames"]) == 2


@pytest.mark.parametrize("name", EVERYTHING)
def test_missing_modality(full, save, name):
    for number in (1, 4):
        full[number][name] = None
    _, dataset = loaded(save(full))
    assert name not in dataset[1]
    batch = dataset.batch([1, 2, 4])
    assert batch[f"{name}_present"].tolist() == [False, True, False]
    assert batch[f"{name}_present"].dtype == torch.bool
    assert [key for key in batch if key.endswith("_present")] == [f"{name}_present"]
    if name == "image":
        assert batch["image"].tolist() == [0, 0, 0]
        assert len(batch["image_frames"]) == 1  # no image is encoded for rows that lack one
    else:
        assert batch[f"{name}_lengths"][[0, 2]].tolist() == [1, 1]
        assert not batch[name][[0, 2]].any()
        assert batch[name][1].any()
    # A batch without missing rows has the key too, since the network expects it.
    assert dataset.batch([2, 3])[f"{name}_present"].all()


@pytest.mark.parametrize("name", EVERYTHING)
def test_batch_without_a_modality(full, save, name):
    full[1][name] = None
    _, dataset = loaded(save(full))
    batch = dataset.batch([1, 1])
    assert not batch[f"{name}_present"].any()
    assert all(len(batch[key]) == 2 for key in ("image", "audio", "text", "series", "label"))
    assert len(batch["image_frames"]) == 1


def test_split_without_a_modality(full, save):
    manifest = read_manifest(
        save([row | {"image": None} if n > 9 else row for n, row in enumerate(full)])
    )
    processor = Processor.fit(manifest, range(10), CONFIG)
    batch = load_dataset(manifest, processor, range(10, 20)).batch([0, 5])
    assert batch["image_frames"].shape == (1, 3, 8, 8)
    assert not batch["image_present"].any()


def test_missing_in_streams(streams, save):
    streams[2]["image"], streams[3]["audio"] = None, None
    _, dataset = loaded(save(streams))
    batch = dataset.batch([1, 2, 3])
    assert batch["image"].shape == (3, 4)
    assert batch["steps"].sum(1).tolist() == [2, 3, 4]
    assert batch["image_present"].tolist() == [True, False, True]
    assert batch["audio_present"].tolist() == [True, True, False]
    assert int(batch["image"].max()) < len(batch["image_frames"])


def test_stream_model_reads_rows_without_lists(streams, save):
    processor, _ = loaded(save(streams))
    rows = [{"image": None, "audio": row["audio"]} for row in streams]
    manifest = read_manifest(save(rows), labelled=False)
    assert not manifest.stream  # cannot be inferred from this table
    batch = load_dataset(manifest, processor).batch([0, 1])
    assert batch["steps"].tolist() == [[True], [True]]
    assert batch["image"].shape == (2, 1)


def test_single_image_model_rejects_lists(rows, streams, save):
    processor, _ = loaded(save([{"image": r["image"], "label": r["label"]} for r in rows]))
    manifest = read_manifest(save(streams), labelled=False)
    with pytest.raises(ManifestError, match="the model reads one image per row; write one"):
        load_dataset(manifest, processor)


def test_column_of_the_model_is_required(full, save):
    processor, _ = loaded(save(full))
    without = [{key: row[key] for key in ("text", "audio", "image")} for row in full]
    manifest = read_manifest(save(without), labelled=False)
    with pytest.raises(ManifestError, match=r"the model reads series.*--series, or add an empty"):
        load_dataset(manifest, processor)
    table = pd.DataFrame(without).assign(series=None)
    empty = read_manifest(table, root=manifest.root, labelled=False)
    batch = load_dataset(empty, processor).batch([0, 1])
    assert batch["series"].shape == (2, 1, 2)
    assert not batch["series_present"].any()


def test_other_columns_are_ignored(rows, save):
    texts = [{"text": row["text"], "label": row["label"]} for row in rows]
    processor, _ = loaded(save(texts))
    rows[3] |= {"text": None}
    manifest = read_manifest(save(rows))
    batch = load_dataset(manifest, processor, [1, 2]).batch([0, 1])
    of_text = {f"text{ending}" for ending in ("", "_lengths", "_ngrams", "_ngram_weights")}
    assert set(batch) == of_text | {"label"}
    with pytest.raises(ManifestError, match="line 4: no value for text; fill one"):
        load_dataset(manifest, processor, [3])


def test_the_error_names_the_table_the_row_and_the_file(rows, save, tmp_path):
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:60])
    _, dataset = loaded(save(rows))
    for read in (lambda: dataset[5], lambda: dataset.batch([0, 5])):
        with pytest.raises(MediaError, match=r"manifest\.jsonl, line 6: .*5\.png"):
            read()


def test_rows_of_a_part(full, save):
    manifest = read_manifest(save(full))
    processor = Processor.fit(manifest, range(20), CONFIG)
    whole, part = load_dataset(manifest, processor), load_dataset(manifest, processor, [9, 3, 12])
    same_batch(part.batch([0, 1, 2]), whole.batch([9, 3, 12]))
    same_batch(whole.select([9, 3, 12]).batch([0, 1, 2]), whole.batch([9, 3, 12]))
    assert (part.where(1), part[1]["row"]) == ("line 4", 1)
    assert part.labels().tolist() == [1, 1, 0]


def test_long_texts_are_counted(rows, save):
    rows[3]["text"] = "one two " * 200
    _, dataset = loaded(save(rows))
    assert dataset.truncated == 1
    assert len(dataset[3]["text"]) == CONFIG.max_tokens


def test_labels_of_rows(rows, save):
    processor, dataset = loaded(save([row | {"label": "aab"[n % 3]} for n, row in enumerate(rows)]))
    expected = [n % 3 // 2 for n in range(20)]
    assert dataset.labels().tolist() == dataset.flat_labels().tolist() == expected
    assert dataset.labels([2, 0]).tolist() == [1, 0]
    assert dataset.labels(slice(1, 4)).tolist() == [0, 1, 0]
    assert dataset.masses().tolist() == [1] * 20
    assert dataset.balance().tolist() == pytest.approx([14 / 6])
    assert torch.equal(dataset.batch([4, 2])["label"], dataset.labels([4, 2]))
    unlabelled = load_dataset(read_manifest(save(rows), labelled=False), processor)
    with pytest.raises(ManifestError, match="the rows were read without labels"):
        unlabelled.labels()


def test_labels_of_steps(streams, save, monkeypatch):
    monkeypatch.setattr("fastrnn.fusion.data.dataset._CHUNK", 3)  # fewer rows than there are
    _, dataset = loaded(save(streams))
    assert dataset.steps.tolist() == [1, 2, 3, 4] * 5
    assert dataset.labels([0, 2]).tolist() == [[0, IGNORE, IGNORE], [IGNORE, 0, 1]]
    assert dataset.labels(slice(1, 2)).tolist() == [[IGNORE, 2]]
    assert len(dataset.flat_labels()) == 50
    assert torch.equal(dataset.batch([0, 2])["label"], dataset.labels([0, 2]))
    assert dataset.masses().tolist() == [1, 1, 2, 3] * 5
    weight = torch.tensor([1.0, 10, 100])
    label = dataset.labels()
    scored = [weight[each[each != IGNORE]].sum().item() for each in label]
    assert dataset.masses(weight).tolist() == scored
    names = dataset.flat_labels()
    counts = torch.bincount(names[names != IGNORE])
    assert dataset.balance().tolist() == pytest.approx((35 / (3 * counts)).tolist())


def test_weighted_masses(rows, save):
    _, dataset = loaded(save([row | {"label": n % 3} for n, row in enumerate(rows)]))
    masses = dataset.masses(torch.tensor([1.0, 10, 100]))
    assert masses.tolist() == [10.0 ** (n % 3) for n in range(20)]
    assert masses.dtype == torch.float64


def test_a_table_without_rows_for_a_part(rows, save):
    processor, dataset = loaded(save(rows))
    empty = load_dataset(dataset.manifest, processor, [])
    assert len(empty) == 0
    assert empty.rows.dtype == np.int64


LARGEST = 200  # bytes of a row with a text of 44 characters, 9 words


@pytest.mark.slow
def test_memory_of_20_000_rows(tmp_path):
    """Python and numpy allocate through tracemalloc; Arrow counts its own memory."""
    count = 20_000
    texts = [f"row {n:05} of the table has a text like this" for n in range(count)]
    frame = pd.DataFrame({"text": texts, "label": ["yes", "no"] * (count // 2)})
    frame.to_csv(tmp_path / "manifest.csv", index=False)
    small = read_manifest(frame.iloc[:100])
    processor = Processor.fit(small, range(100), CONFIG)
    del frame, small, texts
    gc.collect()
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        dataset = load_dataset(read_manifest(tmp_path / "manifest.csv"), processor)
        gc.collect()
        python, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset) == count
    assert (python + pa.total_allocated_bytes() - arrow) / count < LARGEST
