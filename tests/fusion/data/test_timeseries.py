"""Test reading numeric series, and rejecting invalid files before the costly work."""

from __future__ import annotations

import json
import pickle
import zipfile

import numpy as np
import pytest

from fastrnn.fusion import DataConfig, MediaError, Processor, load_dataset, read_manifest
from fastrnn.fusion.data.timeseries import read_series
from fastrnn.fusion.tasks.scale import scales
from tests.fusion.data.test_manifest import expect_error

CONFIG = DataConfig(max_series=100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n2.5\n-3e2\n", [[1], [2.5], [-300]]),
        ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("\ufeffa\n1\n\n2", [[1], [2]]),
        ("1, 2\r\n3 ,4\r\n", [[1, 2], [3, 4]]),
    ],
)
def test_csv(tmp_path, text, expected):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    values = read_series(tmp_path / "a.csv", CONFIG)
    assert values.dtype == np.float64
    assert values.tolist() == expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", ">f4"])
def test_npy(tmp_path, dtype):
    values = np.arange(12).reshape(4, 3).astype(dtype)
    for array in (values, np.asfortranarray(values), values[:, 0]):
        np.save(tmp_path / "a.npy", array)
        read = read_series(tmp_path / "a.npy", CONFIG)
        assert np.array_equal(read, array.reshape(4, -1))
        assert read.dtype == np.float64
        assert read.flags.c_contiguous


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"shape \[0\]"),
        ("a,b\n", r"shape \[0\]"),
        ("1,2\n3\n", "differ in length"),
        ("1\n2\nx\n", "line 3: 'x' has values that are not numbers; fix it"),
        ("1\nnan\n", "not finite; fill them in"),
        ("a;b\n1;2\n", "line 2: '1;2' has values .*with commas, not semicolons"),
        ("1\t2\n3\t4\n", "line 2: .* has values .*with commas, not tabs"),
        ("1e999\n", "not finite"),
        ("a,b\n2,3\n4,\n", "line 3: '4,' has values that are not numbers"),
        ("1.0,NA,2\n3,4,5\n", "line 1: '1.0,NA,2' has values that are not numbers; fix it"),
        ("\n".join("1" * 101), "has more than 100 numbers, but at most 100 numbers are allowed"),
        ("1" * 20_000, "the series has 20000 bytes"),
        ('"1\n', "the series cannot be read"),
    ],
)
def test_invalid_csv(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(MediaError, match=rf"a\.csv: .*({said})"):
        read_series(tmp_path / "a.csv", CONFIG)


def test_csv_of_random_bytes(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(256)))
    with pytest.raises(MediaError, match=r"a\.csv: "):
        read_series(tmp_path / "a.csv", CONFIG)


class _Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("disguise", ["object array", "pickle", "zip"])
def test_nothing_is_unpickled(tmp_path, disguise):
    trap = _Trap(str(tmp_path / "sprung"))
    path = tmp_path / "a.npy"
    if disguise == "object array":
        np.save(path, np.array([trap], dtype=object), allow_pickle=True)
    elif disguise == "pickle":
        path.write_bytes(pickle.dumps(trap))
    else:
        np.save(tmp_path / "b.npy", np.array([trap], dtype=object), allow_pickle=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "b.npy", "arr_0.npy")
    with pytest.raises(MediaError, match=r"a\.npy: the series cannot be read.*replace the file"):
        read_series(path, CONFIG)
    assert not (tmp_path / "sprung").exists()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("(1000000000000,)", "allowed|cannot be read"),
        ("(99,)", "cannot be read"),  # more than the file has
        ("(-5,)", "cannot be read"),
        ("(0, 3)", "cannot be read|shape"),
        ("(10**9,)", "cannot be read"),
        ("(((((5,),),),),)", "cannot be read"),
    ],
)
def test_npy_headers_with_a_wrong_shape(tmp_path, shape, said):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    (tmp_path / "a.npy").write_bytes(header(text) + bytes(16))
    with pytest.raises(MediaError, match=said):
        read_series(tmp_path / "a.npy", CONFIG)


def test_invalid_npy_headers(tmp_path):
    for text in ("__import__('os').abort()", "(" * 5000, "{}", "x" * 60_000):
        (tmp_path / "a.npy").write_bytes(header(text))
        with pytest.raises(MediaError, match="cannot be read"):
            read_series(tmp_path / "a.npy", CONFIG)


def test_npy_too_large(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((51, 2)))
    with pytest.raises(MediaError, match="102 numbers, but at most 100 numbers are allowed"):
        read_series(tmp_path / "a.npy", CONFIG)


@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.zeros(2, "c8"), np.zeros(2, "i4,f4"), np.zeros((2, 2, 2)), np.array(5.0)],
)
def test_npy_of_unsupported_arrays(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(MediaError, match=r"a\.npy: "):
        read_series(tmp_path / "a.npy", CONFIG)


def test_other_formats(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(MediaError, match=r"must end in \.csv or \.npy; convert it"):
        read_series(tmp_path / "a.pkl", CONFIG)


def test_a_long_cell(rows, save):
    rows[3]["series"] = [0.0] * 101
    manifest = read_manifest(save([{"series": [1, 2], **row} for row in rows]))
    with pytest.raises(MediaError, match="line 4: the series has 101 numbers"):
        Processor.fit(manifest, range(20), CONFIG)


def test_scales_keep_their_digits():
    far = np.array([[1e6 + 1], [1e6 + 3]], np.float32)
    assert scales(lambda: [far, far]) == ((1e6 + 2, 1.0),)
    assert scales(lambda: [np.full((7, 1), 0.1, np.float32)])[0][1] == 1
    assert scales(list) == ()


def test_small_differences_of_large_numbers_are_kept(rows, save):
    for number, row in enumerate(rows):
        row["series"] = [1.7e9 + number % 2, 1.7e9 + number % 5]
    manifest = read_manifest(save(rows))
    dataset = load_dataset(manifest, Processor.fit(manifest, range(20), CONFIG))
    first = dataset.batch(range(20))["series"][:, 0, 0]
    # float32 resolves 1.7e9 to 128; here neighbours differ by 1, with a deviation of 1.5.
    assert (first[1::2] - first[::2] > 0.6).all()


def test_numbers_far_outside_the_training_range(rows, save):
    rows = [row | {"series": [number / 100, 1.0]} for number, row in enumerate(rows)]
    manifest = read_manifest(save(rows))
    processor = Processor.fit(manifest, range(20), CONFIG)
    rows[3]["series"] = [1e30, 1.0]
    far = read_manifest(save(rows))
    with pytest.raises(MediaError, match=r"line 4: a number of the series is more than 1e\+15"):
        load_dataset(far, processor)


def test_numbers_with_squares_that_underflow_are_standardised():
    ((mean, deviation),) = scales(lambda: [np.array([[1e-200], [3e-200]])])
    assert mean == pytest.approx(2e-200)
    assert deviation == pytest.approx(1e-200)


def test_series_cells(rows, save):
    for number, row in enumerate(rows):
        row["signal"] = [[number, step] for step in range(3)] if number % 2 else None
    for ending in ("jsonl", "csv"):
        manifest = read_manifest(
            save(
                [
                    row | {"signal": json.dumps(row["signal"]) if row["signal"] else ""}
                    for row in rows
                ]
                if ending == "csv"
                else rows,
                ending,
            )
        )
        assert manifest.modalities == ("audio", "image", "series", "text")
        assert manifest.missing == ("series",)
        assert manifest.rows[3].series.tolist() == [[3, 0], [3, 1], [3, 2]]
        assert manifest.rows[3].series.dtype == np.float64


def test_series_files_are_detected_by_their_extension(rows, save, tmp_path):
    for number, row in enumerate(rows):
        np.save(tmp_path / f"{number}.npy", np.zeros(5))
        row["pressure"] = f"{number}.npy"
    manifest = read_manifest(save(rows))
    assert manifest.columns["series"] == "pressure"
    assert manifest.rows[7].series == "7.npy"
    rows[7]["pressure"] = "../7.npy"
    expect_error(save(rows), "line 8", "'pressure'", "is outside the folder")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ([], "shape [0]"),
        ([[]], "shape [1, 0]"),
        ([[[1.0]]], "shape [1, 1, 1]"),
        ([[1, 2], [3]], "differ in length"),
        (["1", "2"], "are not numbers"),
        ([1, None], "are not numbers"),
        ([1, True, "x"], "are not numbers"),
        ([10**400], "are not numbers"),
        ([1e300], "beyond ±1e+150; use larger units"),
        ([float("inf")], "not finite"),
        ([1, float("nan")], "not finite"),
        ("1 2 3", "is not a series; write a list of numbers"),
        ("a.txt", "is not a series"),
        (5, "is not a series"),
    ],
)
def test_invalid_series_cells(rows, save, cell, text):
    rows[2]["series"] = cell
    expect_error(save(rows), "line 3, column 'series'", text, series="series")
