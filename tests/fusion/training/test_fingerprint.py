"""Test that the fingerprint of a run's rows notices every change of a cell."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from fastrnn.fusion import read_manifest
from fastrnn.fusion.data.fingerprint import fingerprint

SERIES = [[number / 7, -float(number)] for number in range(1000)]


def rows() -> list[dict]:
    return [
        {
            "image": f"{number}.png",
            "audio": None if number % 3 else f"{number}.wav",
            "text": f"text {number}",
            "series": SERIES if number % 2 else f"{number}.npy",
            "label": "yes" if number % 2 else "no",
            "group": f"g{number // 2}",
            "split": "val" if number > 7 else "train",
        }
        for number in range(10)
    ]


def changed(row: int, **cells: object) -> list[dict]:
    table = rows()
    table[row] |= cells
    return table


def moved(row: int, number: int, value: float) -> list[dict]:
    """Change one number of a series."""
    series = [list(each) for each in SERIES]
    series[number][1] = value
    return changed(row, series=series)


CHANGES = {
    "image": changed(4, image="4.jpg"),
    "no image": changed(4, image=None),
    "audio": changed(3, audio="03.wav"),
    "audio of another row": changed(3, audio=None)[:4] + changed(4, audio="3.wav")[4:],
    "text": changed(5, text="text 5."),
    "text without a character": changed(5, text="text "),
    "empty text": changed(5, text=""),
    "label": changed(6, label="yes"),
    "new label": changed(6, label="maybe"),
    "group": changed(6, group="g2"),
    "split": changed(8, split="test")[:9] + changed(9, split="test")[9:],
    "series file": changed(4, series="04.npy"),
    "series value": moved(5, 500, -500.0000001),
    "sign of a zero": moved(5, 0, 0.0),
    "series without its end": changed(5, series=SERIES[:-1]),
    "series of another width": changed(5, series=[[x] for pair in SERIES for x in pair]),
    "order": rows()[::-1],
    "fewer rows": rows()[:-1],
}


def found(table: list[dict]) -> str:
    # Written as Arrow, so that the rows need no files.
    for row in table:
        if isinstance(row["series"], list):
            row["series"] = str(row["series"])
    return fingerprint(read_manifest(pa.Table.from_pylist(table)))


def test_equal_rows_have_equal_fingerprints(tmp_path):
    assert found(rows()) == found(rows())
    there = read_manifest(pa.Table.from_pylist([{"text": "a", "label": n % 2} for n in range(9)]))
    elsewhere = replace(there, root=tmp_path, path=tmp_path / "manifest.csv")
    assert fingerprint(there) == fingerprint(elsewhere)
    parts = [there.table.slice(0, 4), there.table.slice(4)]
    assert fingerprint(replace(there, table=pa.concat_tables(parts))) == fingerprint(there)
    assert fingerprint(there.select([3, 4])) == fingerprint(replace(there, table=there.table[3:5]))


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed(name):
    assert found(CHANGES[name]) != found(rows())


def test_texts_do_not_run_into_each_other():
    one, other = (
        read_manifest(pa.Table.from_pylist([{"text": each, "label": "a"} for each in texts]))
        for texts in (("ab", "c"), ("a", "bc"))
    )
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    ("problem_type", "labels", "other"),
    [
        ("multilabel", ["a|b", "c", "[]"], ["a", "b|c", "[]"]),
        ("multilabel", ["a|b", "c", "[]"], ["a|b", "[]", "c"]),
        ("steps", [["a", None], ["b"]], [[None, "a"], ["b"]]),
        ("steps", [["a", "b"], ["b"]], [["a"], ["b", "b"]]),
    ],
)
def test_lists_of_labels(problem_type, labels, other):
    prints = {
        fingerprint(
            read_manifest(
                pa.Table.from_pylist([{"text": "a", "label": each} for each in values]),
                problem_type=problem_type,
            )
        )
        for values in (labels, other)
    }
    assert len(prints) == 2
