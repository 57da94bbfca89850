"""Test augmentation against plain loops over rows, and when it is chosen."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    FusionNetwork,
    Processor,
    TrainConfig,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.training import augmentation
from fastrnn.fusion.training.augmentation import Augmentation, mask, shift

from ..synthetic import Rows, config
from ..trained import DATA as STREAM_DATA
from .conftest import DATA, TRAINING, content, quick, stopped_at

FLIP = replace(TRAINING, augment_images="flip")


@pytest.mark.parametrize("flip", [False, True])
def test_shifts_and_mirrors_are_those_of_a_loop(flip):
    frames = torch.randint(0, 256, (40, 3, 16, 24)).to(torch.uint8)
    numbers = torch.rand(40, 3)
    found = shift(frames, numbers, flip)
    assert found.dtype == torch.uint8
    padded = F.pad(frames.float(), (3, 3, 2, 2), mode="replicate").to(torch.uint8)
    for image, given in enumerate(numbers.tolist()):
        y, x = int(given[0] * 5), int(given[1] * 7)
        expected = padded[image, :, y : y + 16, x : x + 24]
        # A mirrored image is a crop of the mirrored, padded image.
        if flip and given[2] < 0.5:
            expected = expected.flip(-1)
        assert torch.equal(found[image], expected)
    offsets = {(int(5 * a), int(5 * b)) for a, b, _ in numbers.tolist()}
    assert len(offsets) > 10


def test_masks_are_those_of_a_loop():
    lengths = torch.tensor([1, 4, 9, 30, 50, 200])
    audio = torch.randn(6, 400, 16)
    lengths[-1] = 400
    numbers = torch.rand(6, 8)
    found = mask(audio, lengths, numbers)
    for row, length in enumerate(lengths.tolist()):
        expected = audio[row].clone()
        mean = audio[row, :length].mean()
        given = numbers[row].tolist()
        for width, place in zip(given[:2], given[2:4], strict=True):
            wide = int(width * (round(16 * 15 / 80) + 1))
            start = int(place * (16 - wide + 1))
            expected[:length, start : start + wide] = mean
        for width, place in zip(given[4:6], given[6:], strict=True):
            wide = int(width * (min(70, int(length / 5)) + 1))
            start = int(place * (length - wide + 1))
            expected[start : start + wide] = mean
        torch.testing.assert_close(found[row], expected)
        changed = (found[row] != audio[row]).all(1)
        assert changed.sum() <= 2 * length / 5
        assert not changed[length:].any()
    assert not torch.equal(found, audio)


def test_images_follow_the_first_row_that_shows_them():
    """Also with missing images, whose index is a placeholder, and with the padding of streams."""
    change = Augmentation(flip=True, crop=True)
    for options in ({}, {"missing": ("image",)}, {"stream": True, "problem_type": "steps"}):
        batch = Rows(config(**options)).batch()
        index = batch["image"]
        if not options:
            batch["image"] = index = torch.tensor([2, 0, 2, 1, 0, 3])
        numbers = torch.rand(len(index), 13)
        found = change(batch, numbers)
        shown = batch.get("steps", torch.ones(index.shape, dtype=torch.bool))
        for frame in range(len(batch["image_frames"])):
            rows = [
                row
                for row in range(len(index))
                if batch.get("image_present", torch.ones(len(index)))[row]
                and frame in index[row][shown[row]]
            ]
            if rows:
                one = batch["image_frames"][frame : frame + 1]
                expected = shift(one, numbers[rows[0], :3][None], True)[0]
                assert torch.equal(found["image_frames"][frame], expected)
        for name in batch.keys() - {"image_frames"}:
            assert torch.equal(found[name], batch[name])


def test_numbers_follow_from_the_position():
    change = Augmentation(crop=True)
    first = change.draw(5, 0, 1, 2)
    torch.rand(3)
    assert torch.equal(change.draw(5, 0, 1, 2), first)
    assert len({float(change.draw(1, *place)[0, 0]) for place in np.ndindex(2, 2, 3)}) == 12


@pytest.mark.slow
def test_only_training_batches_change_and_a_run_resumes(manifest, tmp_path, monkeypatch):
    forward, seen = FusionNetwork.forward, {True: [], False: []}

    def watching(self, batch, **how):
        seen[self.training].append(batch["image_frames"].clone())
        return forward(self, batch, **how)

    monkeypatch.setattr(FusionNetwork, "forward", watching)
    run = quick(manifest, tmp_path / "whole", FLIP)
    originals = {
        each.numpy().tobytes()
        for split in run.datasets.values()
        for each in split.batch(range(len(split)))["image_frames"]
    }
    same = {
        mode: [each.numpy().tobytes() in originals for part in parts for each in part]
        for mode, parts in seen.items()
    }
    assert all(same[False])
    # An image keeps its place with probability 1/9, and is not mirrored with 1/2.
    assert sum(same[True]) < len(same[True]) / 2
    with stopped_at(monkeypatch, 2):
        quick(manifest, tmp_path / "run", FLIP)
    again = quick(manifest, tmp_path / "run", FLIP, resume=True)
    assert content(again.folder) == content(run.folder)


@pytest.mark.slow
def test_spec_augment_changes_a_training(rows, save, tmp_path):
    path = save([{name: row[name] for name in ("audio", "label")} for row in rows])
    first, second = (
        quick(path, tmp_path / name, replace(TRAINING, spec_augment=name == "masked"))
        for name in ("plain", "masked")
    )
    assert first.trained[0].epochs[0]["train"] != second.trained[0].epochs[0]["train"]


def photograph(number: int) -> np.ndarray:
    """Draw smooth random colours, as in a photograph."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC))


def chosen(save, folder, make, names=("image", "label"), data=DATA) -> tuple[str, str]:
    """Return the choice for rows with images of `make`."""
    dice = random.Random(0)
    rows = []
    for number in range(20):
        Image.fromarray(make(number)).save(folder / f"{number}.jpg")
        label = dice.choice("ab")
        row = {"image": f"{number}.jpg", "text": "a dog", "label": label}
        if "steps" in names:
            row |= {"image": [f"{number}.jpg"], "label": [label]}
        rows.append({name: row[name] for name in row if name in names})
    manifest = read_manifest(save(rows))
    dataset = load_dataset(manifest, Processor.fit(manifest, range(20), data))
    return augmentation.choose(TrainConfig(), dataset)


def test_auto_augments_coloured_photographs(save, tmp_path):
    found, reason = chosen(save, tmp_path, photograph)
    assert found == "flip"
    assert reason == "20 of 20 training images are coloured photographs"
    assert chosen(save, tmp_path, photograph, ("image", "text", "label"))[0] == "crop"
    assert chosen(save, tmp_path, photograph, ("image", "label", "steps"), STREAM_DATA)[0] == "crop"


def test_auto_leaves_digits_texts_and_grey_images(save, tmp_path):
    def grey(number):
        return np.array(Image.fromarray(photograph(number)).convert("L").convert("RGB"))

    def sign(number):
        """Draw a blue stroke on white, like a letter."""
        pixels = np.full((32, 32, 3), 255, np.uint8)
        pixels[4:28, 10 + number % 9 : 16 + number % 9] = (20, 40, 200)
        return pixels

    for make in (grey, sign):
        found, reason = chosen(save, tmp_path, make)
        assert (found, reason.partition(" of")[0]) == ("none", "0")
    one = DataConfig(image_size=8, image_channels=1)
    assert chosen(save, tmp_path, photograph, data=one)[0] == "none"


def test_the_choice_is_printed_and_saved(manifest, tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr("tests.fusion.training.conftest.QUIET", console)
    run = quick(manifest, tmp_path / "run")
    assert "augment_images: crop (16 of 16 training images are" in console.file.getvalue()
    assert run.config.train.augment_images == "crop"


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (("text",), {"augment_images": "flip"}, "needs images, but the rows have none"),
        (("image",), {"spec_augment": True}, "needs audio, but the rows have none"),
    ],
)
def test_options_without_their_modality(rows, save, tmp_path, names, options, said):
    path = save([{name: row[name] for name in (*names, "label")} for row in rows])
    with pytest.raises(ConfigError, match=said):
        quick(path, tmp_path / "run", replace(TRAINING, **options))
    assert not (tmp_path / "run").exists()


def test_streams_are_not_mirrored(streams, save, tmp_path):
    with pytest.raises(ConfigError, match="flip does not apply to streams"):
        quick(save(streams), tmp_path / "run", FLIP)
