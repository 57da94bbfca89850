"""Numeric series: files that are read, and files that are refused before they cost anything."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

from fastrnn.fusion.config import DataConfig
from fastrnn.fusion.data import Preprocessor
from fastrnn.fusion.errors import MediaError
from fastrnn.fusion.manifest import read_manifest
from fastrnn.fusion.series import read_series, statistics

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
    assert values.dtype == np.float32
    assert values.tolist() == expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", ">f4"])
def test_npy(tmp_path, dtype):
    values = np.arange(12).reshape(4, 3).astype(dtype)
    for array in (values, np.asfortranarray(values), values[:, 0]):
        np.save(tmp_path / "a.npy", array)
        read = read_series(tmp_path / "a.npy", CONFIG)
        assert np.array_equal(read, array.reshape(4, -1))
        assert read.dtype == np.float32
        assert read.flags.c_contiguous


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"shape \[0\]"),
        ("a,b\n", r"shape \[0\]"),
        ("1,2\n3\n", "differ in length"),
        ("1\n2\nx\n", "line 3: 'x' is not all numbers; mend it"),
        ("1\nnan\n", "not finite; fill them"),
        ("1e999\n", "not finite"),
        ("1,\n2,3\n4,\n", "line 3: '4,' is not all numbers"),
        ("\n".join("1" * 101), "a series of more than 100 numbers, with 100 numbers allowed"),
        ("1" * 20_000, "a series of 20000 bytes"),
        ('"1\n', "no series that can be read"),
    ],
)
def test_csv_that_is_none(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(MediaError, match=rf"a\.csv: .*({said})"):
        read_series(tmp_path / "a.csv", CONFIG)


def test_csv_of_bytes(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(256)))
    with pytest.raises(MediaError, match=r"a\.csv: "):
        read_series(tmp_path / "a.csv", CONFIG)


class _Trap:
    """Unpickling this would make a file."""

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
    with pytest.raises(MediaError, match=r"a\.npy: no series that can be read.*replace the file"):
        read_series(path, CONFIG)
    assert not (tmp_path / "sprung").exists()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("(1000000000000,)", "allowed|can be read"),
        ("(99,)", "can be read"),  # more than the file has
        ("(-5,)", "can be read"),
        ("(0, 3)", "can be read|shape"),
        ("(10**9,)", "can be read"),
        ("(((((5,),),),),)", "can be read"),
    ],
)
def test_npy_headers_that_lie(tmp_path, shape, said):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    (tmp_path / "a.npy").write_bytes(header(text) + bytes(16))
    with pytest.raises(MediaError, match=said):
        read_series(tmp_path / "a.npy", CONFIG)


def test_npy_headers_that_are_none(tmp_path):
    for text in ("__import__('os').abort()", "(" * 5000, "{}", "x" * 60_000):
        (tmp_path / "a.npy").write_bytes(header(text))
        with pytest.raises(MediaError, match="can be read"):
            read_series(tmp_path / "a.npy", CONFIG)


def test_npy_too_large(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((51, 2)))
    with pytest.raises(MediaError, match="102 numbers, with 100 numbers allowed; shorten it"):
        read_series(tmp_path / "a.npy", CONFIG)


@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.zeros(2, "c8"), np.zeros(2, "i4,f4"), np.zeros((2, 2, 2)), np.array(5.0)],
)
def test_npy_of_other_things(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(MediaError, match=r"a\.npy: "):
        read_series(tmp_path / "a.npy", CONFIG)


def test_other_files(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(MediaError, match=r"ends in \.csv or \.npy; convert it"):
        read_series(tmp_path / "a.pkl", CONFIG)


def test_a_long_cell(rows, save):
    rows[3]["series"] = [0.0] * 101
    manifest = read_manifest(save([{"series": [1, 2], **row} for row in rows]))
    with pytest.raises(MediaError, match="line 4: a series of 101 numbers"):
        Preprocessor.fit(manifest, range(20), CONFIG)


def test_statistics_keep_their_digits():
    far = np.array([[1e6 + 1], [1e6 + 3]], np.float32)
    assert statistics([far, far]) == ((1e6 + 2, 1.0),)
    assert statistics([np.full((7, 1), 0.1, np.float32)])[0][1] == 1
    assert statistics([]) == ()
