"""Predict with an exported model, without fastrnn and without torch.

`fastrnn export` copies this file next to the model: model.py belongs to model.onnx. It needs numpy
and onnxruntime, and Pillow, soundfile or tokenizers if the model reads images, audio or texts.

    python model.py row.json      prints the predictions of a row, or of a list of rows

    from model import Model
    Model("model.onnx").predict([{"photo": "dog.jpg", "age": 3, "note": "a quiet dog"}])

A row is a dict with the columns of the training table. Images and clips are paths or open binary
files, and series are paths or lists. What was learned in training is in the .onnx file's metadata.
"""

from __future__ import annotations

import calendar
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import onnxruntime

Arrays = dict[str, np.ndarray]
METADATA = ("data", "model", "columns", "tabular", "series", "labels", "target", "threshold")
FARTHEST = 1e15  # standard deviations from the mean


class Model:
    """An exported model, from the path of its .onnx file."""

    def __init__(self, path: str | Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        stored = self.session.get_modelmeta().custom_metadata_map
        self.facts = {name: json.loads(stored[name]) for name in METADATA}
        self.data: dict[str, Any] = self.facts["data"]  # how files become arrays
        self.problem_type = stored["problem_type"]
        if "tokenizer" in stored:  # the model reads texts
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_str(stored["tokenizer"])

    def predict(
        self, rows: Sequence[Mapping[str, Any]], root: str | Path = ".", batch_size: int = 32
    ) -> list[dict[str, Any]]:
        """Return a record for each row, as `fastrnn predict` does.

        Paths are relative to `root`. Only the files of `batch_size` rows are in memory together.

        Raises:
            ValueError, OSError: a row lacks a needed input, or has one that cannot be used.
        """
        records: list[dict[str, Any]] = []
        for start in range(0, len(rows), batch_size):
            inputs = self.batch(rows[start : start + batch_size], Path(root))
            (found,) = self.session.run(["logits"], inputs)
            for row, values in enumerate(found.astype(np.float64)):
                if self.problem_type == "steps":
                    values = values[inputs["steps"][row]]
                if not np.isfinite(values).all():
                    raise ValueError(f"row {len(records)}: the model's output is not finite")
                records.append({"row": len(records)} | self.record(values))
        return records

    def record(self, values: np.ndarray) -> dict[str, Any]:
        """Convert the logits of a row, float64, to a record."""
        labels, threshold = self.facts["labels"], self.facts["threshold"]
        if self.problem_type == "regression":
            mean, deviation = self.facts["target"]
            return {"value": float(values[0]) * deviation + mean}
        if self.problem_type == "multilabel":
            values = np.exp(-np.logaddexp(0, -values))  # sigmoid
            label = [labels[each] for each in np.flatnonzero(values > threshold)]
        else:  # one label, or one for each step
            values = np.append(0, values) if self.problem_type == "binary" else values
            values = np.exp(values - np.logaddexp.reduce(values, -1, keepdims=True))  # softmax
            label = np.array(labels)[values.argmax(-1)].tolist()
        if self.problem_type == "binary":
            label = labels[int(values[1] > threshold)]
        named = [  # float32 resolves seven digits
            {name: float(f"{value:.7g}") for name, value in zip(labels, each, strict=True)}
            for each in np.atleast_2d(values)
        ]
        return {"label": label, "probabilities": named if values.ndim == 2 else named[0]}

    def batch(self, some: Sequence[Mapping[str, Any]], root: Path) -> Arrays:
        """Convert rows to the inputs of the file, padded with zeros. What a row lacks is zero."""
        samples = [self.sample(row, root) for row in some]
        result: Arrays = {}
        for about in self.session.get_inputs():
            key = about.name
            name = key.removesuffix("_present").removesuffix("_lengths")
            if key == "steps":
                counts = np.array([each.get("steps", 1) for each in samples])[:, None]
                result[key] = np.arange(counts.max()) < counts
            elif key.endswith("_present"):
                result[key] = np.array([name in each for each in samples])
            elif key.endswith("_lengths"):
                result[key] = np.array([len(each.get(name, [0])) for each in samples])
            else:
                shape = [size if isinstance(size, int) else 1 for size in about.shape[1:]]
                kind = about.type.removeprefix("tensor(").removesuffix(")")
                lacking = np.zeros(shape, np.float32 if kind == "float" else kind)
                arrays = [each.get(key, lacking) for each in samples]
                longest = np.max([each.shape for each in arrays], axis=0)
                result[key] = np.zeros((len(arrays), *longest), lacking.dtype)
                for row, each in zip(result[key], arrays, strict=True):
                    row[tuple(map(slice, each.shape))] = each
        return result

    def sample(self, row: Mapping[str, Any], root: Path) -> dict[str, Any]:
        """Convert a row to arrays, named as the inputs of the file. What it lacks has no key."""
        cells = {name: cell_of(row.get(column)) for name, column in self.facts["columns"].items()}
        tabular = {name: as_text(cells[name]) for name in cells if name.startswith("tabular:")}
        sample: dict[str, Any] = {}
        model = self.facts["model"]
        for name, cell in cells.items():
            modality = name.partition(":")[0]
            if cell is None or modality == "tabular":
                continue
            if modality == "text":
                sample |= self.text(name, str(cell))
                continue
            values = listed(cell)
            each = values if isinstance(values, list) else [values]
            files = [root / file if isinstance(file, str | Path) else file for file in each]
            if modality == "image":
                images = np.stack([read_image(file, self.data) for file in files])
                if len(files) != (sample.setdefault("steps", len(files)) if model["stream"] else 1):
                    raise ValueError(f"{name}: {len(files)} images are not as many as expected")
                sample[name] = images if model["stream"] else images[0]
            elif modality == "audio":
                sample[name] = log_mel(read_audio(files[0], self.data), self.data)
            else:
                values = read_series(files[0]) if isinstance(values, str | Path) else values
                sample[name] = standardise(values, self.facts["series"][name])
        if any(tabular.values()):
            sample |= encode_tabular(self.facts["tabular"], tabular)
        optional = model["modalities"] if model["modality_dropout"] else model["missing"]
        lacking = [name for name in model["modalities"] if name not in sample]
        if set(lacking) - set(optional) or len(lacking) == len(model["modalities"]):
            raise ValueError(f"a row lacks {', '.join(lacking)}; fill its columns")
        return sample

    def text(self, name: str, text: str) -> Arrays:
        """Return the tokens of a text, and its n-grams."""
        if len(text) > self.data["max_characters"]:
            raise ValueError(f"{name}: a text of {len(text)} characters; shorten it")
        tokens = np.array(self.tokenizer.encode(text).ids[: self.data["max_tokens"]], np.int64)
        numbers, weights = ngrams(text, max(1, self.data["ngrams"]))
        return {name: tokens, f"{name}_ngrams": numbers, f"{name}_ngram_weights": weights}


def cell_of(value: Any) -> Any:
    """Return the value of a cell, or None if it is empty."""
    value = value.strip() or None if isinstance(value, str) else value
    missing = isinstance(value, float) and math.isnan(value)
    return None if missing or type(value).__name__ in ("NAType", "NaTType") else value  # of pandas


def listed(cell: Any) -> Any:
    """Return the list in a text that is a JSON list, or the cell itself."""
    return json.loads(cell) if isinstance(cell, str) and cell[:1] + cell[-1:] == "[]" else cell


def read_image(file: Any, data: Mapping[str, Any]) -> np.ndarray:
    """Read an image and resize it to a square: uint8 [C, S, S]. Transparent parts become white."""
    from PIL import Image, ImageOps

    with Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
        if image.width * image.height > data["max_pixels"]:
            raise ValueError(f"{file}: the image has too many pixels; resize it")
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
            raise ValueError(f"{file}: save the image with 8 bits per channel")
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        upright = upright.convert("L" if data["image_channels"] == 1 else "RGB")
        size = (data["image_size"], data["image_size"])
        pixels = np.array(upright.resize(size, Image.Resampling.BILINEAR))
    return pixels.reshape(*size, -1).transpose(2, 0, 1)


def read_audio(file: Any, data: Mapping[str, Any]) -> np.ndarray:
    """Read a clip, average its channels and resample it to the model's rate: [samples]."""
    import soundfile

    with soundfile.SoundFile(file) as clip:
        source, target = clip.samplerate, data["sample_rate"]
        if not 0 < clip.frames <= data["max_seconds"] * source:
            raise ValueError(f"{file}: the clip is empty or too long")
        wave = clip.read(dtype="float32", always_2d=True).mean(axis=1).astype(np.float64)
    if source != target:  # cut or extend the spectrum
        length = max(1, round(len(wave) * target / source))
        wave = np.fft.irfft(np.fft.rfft(wave), length) * (length / len(wave))
    return wave


def log_mel(wave: np.ndarray, data: Mapping[str, Any]) -> np.ndarray:
    """Return the logarithms of mel energies, float32 [F, mels], with F = 1 + samples // hop."""
    length = round(data["sample_rate"] * data["window_ms"] / 1000)
    hop = round(data["sample_rate"] * data["hop_ms"] / 1000)
    size = 1 << max(1, math.ceil(math.log2(length)))
    # A periodic Hann window, in the middle of each frame.
    window = np.hanning(length + 1)[:-1] if length > 1 else np.ones(1)
    window = np.pad(window, ((size - length) // 2, (size - length + 1) // 2))
    # Frames are centred: the first begins half a frame before the clip.
    signal = np.pad(wave, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(signal, size)[::hop]
    energy = np.abs(np.fft.rfft(frames * window)) ** 2  # [F, size // 2 + 1]
    bank = mel_bank(data["mels"], size, data["sample_rate"])
    return np.log(energy @ bank.T + 1e-5).astype(np.float32)  # so that silence is finite


def mel_bank(mels: int, size: int, rate: int) -> np.ndarray:
    """Return triangular filters [mels, size // 2 + 1], evenly spaced in mel from 0 to rate / 2."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)  # Hz
    frequency = np.linspace(0, rate / 2, size // 2 + 1)
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(np.minimum(rise, fall), 0)
    # A low band can be narrower than the grid; it then reads the frequency nearest to its centre.
    empty = bank.sum(1) == 0
    nearest = np.abs(frequency - edges[1:-1, None]).argmin(1)
    bank[empty, nearest[empty]] = 1
    return bank


def ngrams(text: str, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a text's hashed n-grams and words, int64 [G], and their weights [G].

    A feature that occurs n times has the weight 1 + ln n. The weights of the n-grams have the
    Euclidean norm 1, and so have those of the words.
    """
    words = text.lower().split()
    parts = [f"#{part}" for word in words for part in re.findall(r"\w+", word)]
    grams = [
        word[start : start + length]
        for word in (f" {word} " for word in words)
        for length in range(1, 6)
        for start in range(len(word) - length + 1)
    ]
    numbers, weights = [], []
    for features in ([each for each in grams if each != " "], parts):
        hashed = [1 + crc32(each.encode()) % buckets for each in features]
        found, counts = np.unique(np.array(hashed, np.int64), return_counts=True)
        weight = 1 + np.log(counts)
        numbers.append(found)
        weights.append((weight / max(1, np.sqrt(np.square(weight).sum()))).astype(np.float32))
    return np.concatenate(numbers), np.concatenate(weights)


def read_series(path: Path) -> np.ndarray:
    """Read a .npy file, or a .csv file with a step in each line, perhaps after a header."""
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    form: Any = {"delimiter": ",", "quotechar": '"', "comments": None, "encoding": "utf-8-sig"}
    try:
        return np.loadtxt(path, ndmin=2, **form)
    except ValueError:
        return np.loadtxt(path, ndmin=2, skiprows=1, **form)


def standardise(values: Any, scale: Sequence[Sequence[float]]) -> np.ndarray:
    """Subtract the mean of each variable and divide by its deviation: float32 [L, K]."""
    series = np.array(values, np.float64).reshape(len(values), -1)
    if not len(series) or series.shape[1] != len(scale):
        raise ValueError(f"a series has {series.shape[1]} variables instead of {len(scale)}")
    mean, deviation = np.array(scale).T
    return finite((series - mean) / deviation).astype(np.float32)


def finite(values: np.ndarray) -> np.ndarray:
    """Check that standardised numbers are finite and near the numbers of the training."""
    if not (np.abs(values) <= FARTHEST).all():
        raise ValueError("a number is not finite, or very far from those of the training")
    return values


def as_text(cell: Any) -> str:
    """Return a number, a category or a date as text; "" if it is missing."""
    text = cell.isoformat() if isinstance(cell, date) else "" if cell is None else str(cell)
    return "" if text.lower() == "nan" else text


def encode_tabular(columns: Sequence[Mapping[str, Any]], row: Mapping[str, str]) -> Arrays:
    """Return the numbers of a row, which of them are known, and the indices of its categories."""
    numbers: list[float] = []
    categories = []
    for column in columns:
        cell = row[column["name"]]
        if column["kind"] == "categories":
            known = {name: index for index, name in enumerate(column["categories"], 1)}
            cell = cell.lower() if cell in ("True", "False") else cell
            categories.append(known.get(re.sub(r"^([+-]?\d+)\.0*$", r"\1", cell), 0))  # 1.0 is 1
            continue
        first, *cycles = date_features(cell, column["clock"])
        if column["kind"] == "numbers":
            first, cycles = number(cell), []
        mean, deviation = column["scale"]
        numbers += [(first - mean) / deviation, *cycles]
    values = np.array(numbers, np.float64)
    there = ~np.isnan(values)
    return {
        "tabular": finite(np.where(there, values, 0)).astype(np.float32),
        "tabular_known": there,
        "tabular_categories": np.array(categories, np.int64),
    }


def number(cell: str) -> float:
    """Return a cell as a number; NaN if it is none."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if abs(value) <= 1e150 else math.nan


def date_features(cell: str, clock: bool) -> list[float]:
    """Return the days since 1970, and sine and cosine of the time of year, week and day."""
    try:
        cell = cell if len(cell) >= 8 and cell[:4].isdigit() else ""
        when = datetime.fromisoformat(cell[:-1] + "+00:00" if cell.endswith("Z") else cell)
    except ValueError:
        return [math.nan] * (7 if clock else 3)
    day = (when.hour + (when.minute + (when.second + when.microsecond / 1e6) / 60) / 60) / 24
    year = (when.timetuple().tm_yday - 1 + day) / (366 if calendar.isleap(when.year) else 365)
    universal = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    features = [universal.timestamp() / 86_400]
    for cycle in (year, when.weekday() / 7, day) if clock else (year,):
        features += [math.sin(2 * math.pi * cycle), math.cos(2 * math.pi * cycle)]
    return features


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
    given = json.loads(path.read_text("utf-8") if path.exists() else sys.exit(f"no file {path}"))
    model = Model(Path(__file__).with_suffix(".onnx"))
    for record in model.predict(given if isinstance(given, list) else [given], path.parent):
        print(json.dumps(record, ensure_ascii=False))
