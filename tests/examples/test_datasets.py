"""Test the synthetic tasks: their files, disjoint splits, and uninformative single modalities."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from examples.multimodal.datasets import claim_check, noisy_digit, speech, spoken_claim
from examples.multimodal.datasets.digits import load_split
from fastrnn.fusion import DataConfig, read_manifest
from fastrnn.fusion.data.audio import log_mel, read_audio

KNOWN = [-0.292366, -0.575073, -1.5576629]
SMALL = {"train": 40, "val": 20, "test": 20}


@pytest.fixture(autouse=True)
def few_voices(monkeypatch):
    monkeypatch.setattr(spoken_claim, "VOICES", {"train": 3, "val": 1, "test": 2})


def test_splits_share_no_picture():
    parts = load_split(3)
    assert {name: len(values) for name, (_, values) in parts.items()} == {
        "train": 1100,
        "val": 247,
        "test": 450,
    }
    pixels = np.concatenate([pictures for pictures, _ in parts.values()]).reshape(-1, 64) * 16
    assert sorted(map(tuple, pixels)) == sorted(map(tuple, load_digits().data))


def test_words_are_reproducible_and_normalised():
    def takes(seed):
        dice = np.random.default_rng(seed)
        (voice,) = speech.voices(1, dice)
        return [speech.say(digit, voice, dice) for digit in range(10)]

    for first, again, other in zip(takes(0), takes(0), takes(1), strict=True):
        assert np.array_equal(first, again)
        assert first.shape != other.shape or not np.allclose(first, other)
        assert np.mean(first**2) == pytest.approx(1)
        assert speech.SECONDS[0] <= len(first) / speech.RATE + 0.005  # whole steps of 4 ms
        assert len(first) / speech.RATE <= speech.SECONDS[1]


def test_a_word_is_the_same_in_every_process():
    """Compare a few samples: the order of random draws must not depend on Python's hashes."""
    wave = speech.say(0, speech.Voice(120.0, 1.0, 1.0, 0.05), np.random.default_rng(0))
    assert wave[[100, 900, 1700]] == pytest.approx(KNOWN, abs=1e-6)


def test_words_can_be_recognised_across_voices():
    """The nearest log-mel average of other voices, per third of the word, gives most digits."""
    config = DataConfig(sample_rate=speech.RATE, mels=24)
    dice = np.random.default_rng(0)

    def heard(voice, digit):
        wave = torch.from_numpy(speech.say(digit, voice, dice)).float()
        return torch.cat([part.mean(0) for part in log_mel(wave, config).tensor_split(3)])

    known, others = speech.voices(8, dice), speech.voices(4, dice)
    averages = torch.stack([torch.stack([heard(v, d) for v in known]).mean(0) for d in range(10)])
    right = 0
    for voice in others:
        for digit in range(10):
            right += int((averages - heard(voice, digit)).norm(dim=1).argmin()) == digit
    assert right / 40 >= 0.6  # chance is 0.1


def test_noise_has_the_requested_level():
    dice = np.random.default_rng(0)
    (voice,) = speech.voices(1, dice)
    word = speech.say(7, voice, dice)
    loud, quiet = (speech.under_noise(word, db, np.random.default_rng(5)) for db in (60.0, -20.0))
    assert loud.shape == quiet.shape == (round((speech.SECONDS[1] + 0.05) * speech.RATE),)
    assert np.sum(loud**2) == pytest.approx(0.15**2 * len(word), rel=0.01)
    assert np.std(quiet) == pytest.approx(0.15, rel=0.05)  # 4,800 samples: a deviation of 1%


def test_noisy_digit_files(tmp_path):
    rows = {"train": 200, "val": 50, "test": 50}
    manifest = read_manifest(noisy_digit.write(tmp_path, 0, rows))
    low, high = noisy_digit.RANGE
    corners = []
    for row in manifest.rows:
        pixels = np.asarray(Image.open(tmp_path / row.images[0])) / 255 * (high - low) + low
        assert pixels.shape == (8, 8)
        corners += [pixels[0, 0], pixels[7, 0]]  # black in all 1,797 digits but a few
        assert len(read_audio(tmp_path / row.audio, DataConfig(sample_rate=speech.RATE))) == 4800
    # 600 draws: the standard error of the deviation is 3%
    assert np.std(corners) == pytest.approx(noisy_digit.IMAGE_NOISE, rel=0.1)
    assert np.mean(corners) == pytest.approx(0, abs=0.1)
    counts = Counter((row.split, row.label) for row in manifest.rows)
    assert counts == {(s, str(d)): n // 10 for s, n in rows.items() for d in range(10)}


def test_noisy_digit_splits_share_no_file_and_no_voice(tmp_path):
    path = noisy_digit.write(tmp_path, 0, SMALL)
    manifest = read_manifest(path, {"group": "voice"})
    assert not getattr(manifest, "warnings", ())
    splits = defaultdict(set)
    for line in path.read_text().splitlines()[1:]:
        *_, voice, split = line.split(",")
        splits[voice].add(split)
    assert all(len(each) == 1 for each in splits.values())
    files = [row.images[0] for row in manifest.rows] + [row.audio for row in manifest.rows]
    assert len(set(files)) == len(files)


@pytest.mark.slow
def test_the_same_seed_writes_the_same_files(tmp_path):
    for task in (noisy_digit, spoken_claim):
        folders = [tmp_path / task.NAME / name for name in ("a", "b", "c")]
        for folder, seed in zip(folders, (0, 0, 1), strict=True):
            task.write(folder, seed, SMALL)
        a, b, c = (
            {
                each.relative_to(folder): each.read_bytes()
                for each in folder.rglob("*")
                if each.is_file()
            }
            for folder in folders
        )
        assert a == b
        assert a != c


def truth():
    """Return sentence -> the digits that it is true of."""
    said = [true for _ in range(7) for _, true in claim_check.claims()]
    return dict(zip(claim_check.sentences(), said, strict=True))


def test_spoken_claim_labels_are_right(tmp_path):
    true_of, voices = truth(), defaultdict(set)
    clips, texts = Counter(), Counter()
    for row in read_manifest(spoken_claim.write(tmp_path, 0, SMALL)).rows:
        split, voice, digit, _ = Path(row.audio).stem.split("-")
        assert split == row.split
        assert (int(digit) in true_of[row.text]) == (row.label == "true")
        sign = 1 if row.label == "true" else -1
        clips[row.audio] += sign
        texts[row.split, row.text] += sign
        voices[split].add(voice)
    assert not any(clips.values())
    assert not any(texts.values())
    assert {name: len(list(tmp_path.glob(f"audio/{name}-*"))) for name in SMALL} == {
        name: 10 * spoken_claim.TAKES * count for name, count in spoken_claim.VOICES.items()
    }


def test_tables_of_one_task_differ_only_in_training_rows(tmp_path):
    tables = {"few.csv": (40, 20), "many.csv": (80, 20), "all.csv": (None, None)}
    paths = spoken_claim.write_tables(tmp_path, 0, SMALL, tables)
    rows = [path.read_text().splitlines() for path in paths]
    judged = [[each for each in table if not each.endswith(",train")] for table in rows]
    assert judged[0] == judged[1] == judged[2]
    trained = [[each for each in table if each.endswith(",train")] for table in rows]
    assert [len(each) for each in trained] == [40, 80, 40]
    said = [{each.split(",")[1] for each in table} for table in trained]
    assert len(said[0] | said[1]) <= 20 < len({*claim_check.sentences()})


def test_sentences_that_cannot_be_paired_are_rejected(monkeypatch):
    monkeypatch.setattr(claim_check, "_TRIES", 200)
    drawn = claim_check.pairs(np.arange(10), 1, np.random.default_rng(0), {"the digit is zero"})
    with pytest.raises(ValueError, match="allow more"):
        next(drawn)
