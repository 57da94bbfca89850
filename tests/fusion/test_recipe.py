"""The recipe of an exported model predicts raw rows like fastrnn, without it and without torch."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastrnn._rounding import CONFIDENCE, UNIT_ROUNDOFF
from fastrnn.fusion import ConfigError, DataConfig, Processor, TrainConfig, build, read_manifest
from fastrnn.fusion.config.schema import RunConfig
from fastrnn.fusion.data import audio, image, ngrams
from fastrnn.fusion.data.dataset import load_dataset
from fastrnn.fusion.deployment import recipe_of, write_recipe
from fastrnn.fusion.export import to_inputs, to_onnx, tolerance
from fastrnn.fusion.inference.predictor import Predictor
from fastrnn.fusion.models.text import NgramReadout
from fastrnn.fusion.tasks import task_of
from fastrnn.fusion.training.baselines import configure

from .conftest import write_clip, write_image, write_jsonl

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
recipe = pytest.importorskip("fastrnn.fusion.recipe")

# The window has 201 samples, so that padding it to 256 matters.
DATA = DataConfig(
    image_size=8, sample_rate=8000, window_ms=25.125, mels=12, vocabulary=256, ngrams=512
)
TINY = {"width": 8, "hidden": 8, "conv": (4,), "grid": 2}
ROWS = 9
MEDIA = ("PIL", "soundfile", "tokenizers")

# The command of the recipe, where neither fastrnn nor torch can be imported.
COMMAND = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

BLOCKED = sys.argv.pop(1).split(",")
sys.meta_path.insert(0, Blocker())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"fastrnn", "torch"} & {name.partition(".")[0] for name in sys.modules}
"""


def columns(folder: Path) -> dict[str, list]:
    """Write files, and return columns of every kind; some cells are empty."""
    for number in range(ROWS):
        write_image(folder / f"{number}.png", number, (9 + number, 12))
        write_clip(folder / f"{number}.wav", 0.1 + 0.02 * number, 300 + 90 * number)
    rows = range(ROWS)
    random = np.random.default_rng(0)
    return {
        "front": [f"{number}.png" for number in rows],
        "back": [f"{8 - number}.png" if number % 4 else None for number in rows],
        "clip": [f"{number}.wav" if number % 3 else "" for number in rows],
        "note": ["一 word" + " and another" * (n % 4) if n % 5 != 2 else " " for n in rows],
        "curve": [(random.normal(size=(2 + n, 2)) * 9 + 5).tolist() for n in rows],
        "age": [70.5, 0, None, "nan", 3, 1e6, -2, "x", 41],
        "day": [f"2024-02-{1 + 3 * n:02}T0{n}:30:15.25{'Z' * (n % 2)}" for n in rows],
        "colour": [("red", "1.0", "True", 1, None)[n % 5] for n in rows],
    }


CASES = {
    "binary": ("front", "back", "clip", "note", "curve", "age", "day", "colour"),
    "multiclass": ("front", "note"),
    "multilabel": ("clip", "note"),
    "regression": ("age", "day", "colour"),
    "steps": ("front", "back", "clip", "curve"),
}
ROLES = {
    "image": ("front", "back"),
    "audio": ("clip",),
    "text": ("note",),
    "series": ("curve",),
    "tabular": ("age", "day", "colour"),
}


def label(problem_type: str, row: int) -> object:
    return {
        "binary": ("no", "yes")[row % 2],
        "multiclass": ("a", "b", "七")[row % 3],
        "multilabel": ["a", "b"][: row % 3],
        "regression": 1000 + row / 7,
        "steps": [("a", "b")[(row + step) % 2] for step in range(1 + row % 3)],
    }[problem_type]


def exported(folder: Path, problem_type: str):
    """Export an untrained model of a table; return its dataset, its predictor and the rows."""
    wanted = CASES[problem_type]
    values = {name: each for name, each in columns(folder).items() if name in wanted}
    rows = [dict(zip(values, cells, strict=True)) for cells in zip(*values.values(), strict=True)]
    for number, row in enumerate(rows):
        row["label"] = label(problem_type, number)
        if problem_type == "steps":
            steps = len(row["label"])
            row["front"] = [f"{(number + step) % ROWS}.png" for step in range(steps)]
            row["back"] = row["back"] and row["front"][::-1]
    table = write_jsonl(folder / "table.jsonl", rows)
    roles = {role: [name for name in names if name in wanted] for role, names in ROLES.items()}
    named = {role: names if len(names) > 1 else names[0] for role, names in roles.items() if names}
    manifest = read_manifest(table, named, problem_type=problem_type)
    processor = Processor.fit(manifest, range(ROWS), DATA)
    dataset = load_dataset(manifest, processor)
    missing = tuple(dataset.lacking)
    model = replace(configure(manifest, processor, TINY), missing=missing)
    network = build(model).eval()
    for module in network.modules():
        if isinstance(module, NgramReadout):
            torch.nn.init.normal_(module.weight)  # it begins at 0
    config = RunConfig(model, TrainConfig(), columns=dict(manifest.columns), threshold=0.45)
    path = to_onnx(network, processor, dataset.batch(range(4)), folder / "model.onnx", config)
    write_recipe(path)
    for row in rows:
        del row["label"]
    return dataset, Predictor(network, processor, config), write_jsonl(folder / "new.jsonl", rows)


@pytest.mark.parametrize(
    "problem_type",
    [pytest.param("binary", marks=pytest.mark.slow), *(each for each in CASES if each != "binary")],
)
def test_predictions_and_inputs(problem_type, tmp_path):
    dataset, predictor, new = exported(tmp_path, problem_type)
    rows = [json.loads(line) for line in new.read_text().splitlines()]
    batch = dataset.batch(range(ROWS))
    check_inputs(recipe.Model(tmp_path / "model.onnx").batch(rows, tmp_path), batch, predictor)

    (tmp_path / "rows.json").write_text(json.dumps(rows))
    blocked = ["fastrnn", "torch", "onnx", "pandas", "pyarrow", "scipy"]
    blocked += MEDIA if problem_type == "regression" else ()  # it reads no files
    command = [sys.executable, "-c", COMMAND, ",".join(blocked), "model.py", "rows.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert not done.returncode, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]

    (expected,) = predictor.predict(new)
    bound = tolerance(predictor.network, batch)
    deviation = predictor.processor.task.scale[1] if problem_type == "regression" else 1
    assert len(found) == len(expected) == ROWS
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert (one["row"], one.get("label")) == (other["row"], other.get("label"))
        assert numbers(one) == pytest.approx(numbers(other), abs=bound * deviation)


def numbers(record: dict) -> list[float]:
    """Return the probabilities of a record, by label, or its value."""
    if "value" in record:
        return [record["value"]]
    found = record["probabilities"]
    steps = found if isinstance(found, list) else [found]
    return [step[name] for step in steps for name in sorted(step)]


def check_inputs(found: dict, batch: dict, predictor: Predictor) -> None:
    """Compare the recipe's inputs with those of a batch, except placeholders of missing ones."""
    expected = {key: each.numpy() for key, each in to_inputs(predictor.network, batch).items()}
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert found[key].dtype == values.dtype, key
        assert found[key].shape == values.shape, key
        one, other = found[key], values
        there = expected.get(f"{key}_present", np.ones(ROWS, bool))
        if values.dtype == np.uint8 and "steps" in expected:
            there = there[:, None] & expected["steps"]
        one, other = one[there], other[there]
        if values.dtype != np.float32 or "_ngram" in key:
            np.testing.assert_array_equal(one, other, key)
        elif key == "audio":
            np.testing.assert_allclose(one, other, atol=1e-3, rtol=0)  # test_audio is strict
        else:
            np.testing.assert_allclose(one, other, atol=2**-23, rtol=2**-23, err_msg=key)


def test_a_needed_input_is_missing(tmp_path):
    exported(tmp_path, "multiclass")
    model = recipe.Model(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="lacks image"):
        model.predict([{"front": "", "note": "words"}], tmp_path)
    with (tmp_path / "1.png").open("rb") as file:
        opened = model.predict([{"front": file, "note": "words"}])
    assert opened == model.predict([{"front": "1.png", "note": "words"}], tmp_path)
    many = [{"front": f"{number % 3}.png", "note": "x " * number} for number in range(7)]
    small = model.predict(many, tmp_path, batch_size=2)
    for one, other in zip(small, model.predict(many, tmp_path), strict=True):
        assert one["row"] == other["row"]
        assert numbers(one) == pytest.approx(numbers(other), abs=1e-6)


@pytest.mark.parametrize("problem_type", ["binary", "multiclass", "multilabel", "steps"])
def test_small_probabilities_are_exact(problem_type):
    labels = ("a", "b") if problem_type == "binary" else ("a", "b", "c")
    task = task_of(problem_type)(labels)
    logits = torch.tensor([[16.5, -17.25, 3.0]])[:, : task.num_outputs]
    logits = logits[:, None] if problem_type == "steps" else logits
    model = object.__new__(recipe.Model)
    model.problem_type, model.facts = problem_type, {"labels": labels, "threshold": 0.5}
    found = model.record(logits[0].double().numpy())
    expected = task.decode(task.output(logits)[0], 0.5)
    assert found["label"] == expected["label"]
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-6, abs=0)


def test_empty_cells_of_pandas():
    assert recipe.cell_of(pd.NA) is recipe.cell_of(pd.NaT) is recipe.cell_of(" ") is None
    assert recipe.cell_of(pd.Timestamp("2024-02-01")) == pd.Timestamp("2024-02-01")


def test_other_files_are_kept(tmp_path):
    (tmp_path / "train.py").write_text("print('mine')\n")
    with pytest.raises(ConfigError, match=r"train\.py exists; move it"):
        recipe_of(tmp_path / "train.onnx")
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        recipe_of(tmp_path / "train.py")
    with pytest.raises(ConfigError, match=r"json\.py would hide the module json"):
        recipe_of(tmp_path / "json.onnx")
    written = write_recipe(tmp_path / "model.onnx")
    assert written.read_bytes() == Path(recipe.__file__).read_bytes()
    assert write_recipe(tmp_path / "model.onnx") == written


@pytest.mark.parametrize(
    ("arguments", "said"), [(["a", "b"], "python model.py row.json"), (["a"], "no file a")]
)
def test_command_says_what_is_wrong(arguments, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["model.py", *arguments])
    with pytest.raises(SystemExit, match=re.escape(said)):
        runpy.run_path(recipe.__file__, run_name="__main__")


def picture(folder: Path, kind: str) -> Path:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (13, 17, 4), dtype=np.uint8)
    path = folder / ("image.jpg" if kind in ("exif", "cmyk") else "image.png")
    whole = Image.fromarray(pixels)
    if kind == "exif":
        turned = Image.Exif()
        turned[0x0112] = 6
        whole.convert("RGB").save(path, exif=turned)
    elif kind == "cmyk":
        whole.convert("CMYK").save(path)
    elif kind == "palette":
        whole.convert("P").save(path, transparency=3)
    else:
        whole.convert(kind).save(path)
    return path


@pytest.mark.parametrize("kind", ["RGBA", "LA", "L", "1", "RGB", "exif", "cmyk", "palette"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_equal(kind, channels, tmp_path):
    path = picture(tmp_path, kind)
    config = replace(DATA, image_channels=channels)
    expected = image.read_image(path, config)
    assert np.array_equal(recipe.read_image(path, vars(config)), expected)


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 8000, 1), ("a.flac", 8000, 2), ("a.wav", 44100, 2), ("a.mp3", 16000, 2),
     ("a.ogg", 11025, 1), ("a.wav", 4000, 1)],
)  # fmt: skip
def test_audio(name, rate, channels, tmp_path):
    """The bounds are those of float32 transforms: log2(size) roundings of the signal's norm."""
    time = np.arange(round(0.3 * rate)) / rate
    noise = np.random.default_rng(0).normal(size=(len(time), channels)) * 0.01
    path = tmp_path / name
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 700 * time)[:, None] + noise, rate)
    unit = CONFIDENCE * UNIT_ROUNDOFF[torch.float32]

    expected = audio.read_audio(path, DATA)
    found = recipe.read_audio(path, vars(DATA))
    roundings = 2 * math.log2(max(rate, 8000)) if rate != 8000 else 0
    off = unit * roundings * float(expected.abs().max())
    np.testing.assert_allclose(found, expected.numpy(), atol=off, rtol=0)

    # The transform of a frame is off by its roundings, and by the difference of the clips.
    exact, apart = spectrum(expected.numpy()), spectrum(found - expected.numpy())
    norm = np.sqrt(np.square(exact).sum(1, keepdims=True) / 128)
    spectral = unit * math.log2(256) * norm + apart
    # A filter is off by the roundings of its frequencies, relative to the distance of its edges.
    bank = audio.mel_bank(DATA.mels, 256, DATA.sample_rate).double().numpy()
    near = np.apply_along_axis(np.convolve, 1, bank > 0, np.ones(3), "same") > 0
    widths = (bank > 0).sum(1) * DATA.sample_rate / 256 / 2
    energy = (2 * exact * spectral + spectral**2) @ bank.T
    energy += exact**2 @ near.T * (unit * DATA.sample_rate / 2 / widths)
    bound = energy / (exact**2 @ bank.T + 1e-5) + unit * -audio.SILENCE
    expected_mel = audio.log_mel(expected, DATA).numpy()
    found_mel = recipe.log_mel(found, vars(DATA))
    assert found_mel.dtype == np.float32
    assert found_mel.shape == expected_mel.shape
    assert (np.abs(found_mel - expected_mel) <= bound).all()
    assert np.median(bound) < 1e-3


def spectrum(wave: np.ndarray) -> np.ndarray:
    """Return the absolute values of a clip's Fourier transform, float64 [F, 129]."""
    window = torch.hann_window(201, dtype=torch.float64)
    found = torch.stft(
        torch.as_tensor(wave).double(),
        256,
        80,
        201,
        window,
        pad_mode="constant",
        return_complex=True,
    )
    return found.abs().numpy().T


@pytest.mark.parametrize(("mels", "size", "rate"), [(40, 512, 16_000), (64, 256, 8000)])
def test_filters_are_equal(mels, size, rate):
    """Of 64 filters, the lowest are narrower than the grid of frequencies."""
    expected = audio.mel_bank(mels, size, rate).numpy()
    narrowest = 700 * (10 ** (math.log10(1 + rate / 1400) / (mels + 1)) - 1)  # Hz
    bound = CONFIDENCE * UNIT_ROUNDOFF[torch.float32] * rate / 2 / narrowest
    assert bound < 1e-3
    np.testing.assert_allclose(recipe.mel_bank(mels, size, rate), expected, atol=bound, rtol=0)


@given(st.text(min_size=1).map(str.strip).filter(bool))
def test_ngrams_are_equal(text):
    for one, other in zip(recipe.ngrams(text, 64), ngrams.ngrams(text, 64), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("content", ["a,b\n1,2\n3,4.5\n", "1,2\n\n3,4.5\n", '\ufeff"1", 2\n'])
def test_series_files(content, tmp_path):
    from fastrnn.fusion.data.timeseries import read_series

    path = tmp_path / "series.csv"
    path.write_text(content, encoding="utf-8")
    assert np.array_equal(recipe.read_series(path), read_series(path, DATA))
    np.save(tmp_path / "series.npy", np.arange(6).reshape(3, 2))
    assert recipe.read_series(tmp_path / "series.npy").tolist() == [[0, 1], [2, 3], [4, 5]]
