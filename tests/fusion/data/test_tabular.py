"""Test numbers, dates and categories, compared with pandas."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fastrnn.fusion import ConfigError, DataConfig, DataError, ManifestError, read_manifest
from fastrnn.fusion.config import parser
from fastrnn.fusion.data.dataset import load_dataset
from fastrnn.fusion.data.processor import CONFIG, Processor, ProcessorConfig
from fastrnn.fusion.data.tabular import TabularColumn, encode, fit_column

ROWS = 60


@pytest.fixture
def frame():
    random = np.random.default_rng(0)
    days = pd.to_datetime("2023-11-03") + pd.to_timedelta(random.integers(0, 700, ROWS), unit="D")
    return pd.DataFrame(
        {
            "age": np.where(random.random(ROWS) < 0.2, np.nan, random.normal(50, 12, ROWS)),
            "sex": random.choice(["f", "m", None], ROWS),
            "smoker": random.random(ROWS) < 0.5,
            "born": days,
            "seen": days + pd.to_timedelta(random.integers(0, 1440, ROWS), unit="min"),
            "label": np.where(random.random(ROWS) < 0.5, "yes", "no"),
        }
    )


def expected_numbers(frame, train):
    """Compute the features with pandas: age, born and seen."""
    parts = []
    for name in ("age", "born", "seen"):
        values = frame[name]
        if name != "age":
            values = (values - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
        parts.append((values - values[train].mean()) / values[train].std(ddof=0))
        if name == "age":
            continue
        when = frame[name].dt
        day = (frame[name] - when.normalize()) / pd.Timedelta(days=1)
        cycles = [(when.day_of_year - 1 + day) / (365 + when.is_leap_year)]
        if name == "seen":
            cycles += [when.day_of_week / 7, day]
        for each in cycles:
            parts += [np.sin(2 * np.pi * each), np.cos(2 * np.pi * each)]
    return pd.concat(parts, axis=1).to_numpy()


def as_csv(frame, folder):
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def as_jsonl(frame, folder):
    rows = json.loads(frame.to_json(orient="records", date_format="iso"))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "table.jsonl").write_text(lines)
    return folder / "table.jsonl"


@pytest.mark.parametrize(
    "source", [lambda frame, _: frame, as_csv, as_jsonl, lambda frame, _: pa.table(frame)]
)
def test_features_are_those_of_pandas(frame, tmp_path, source):
    manifest = read_manifest(source(frame, tmp_path))
    assert manifest.modalities == ("tabular",)
    assert set(manifest.columns.values()) == set(frame.columns)
    train = range(0, ROWS, 2)
    processor = Processor.fit(manifest, train, DataConfig())
    assert (processor.numbers, processor.categories) == (1 + 3 + 7, (2, 2))
    batch = load_dataset(manifest, processor).batch(range(ROWS))
    order = {each.name: each for each in processor.tabular}
    assert list(order) == [f"tabular:{name}" for name in ("age", "born", "seen", "sex", "smoker")]
    numbers = expected_numbers(frame, train)
    assert np.array_equal(batch["tabular_known"].numpy(), ~np.isnan(numbers))
    assert np.allclose(batch["tabular"].numpy(), np.nan_to_num(numbers), atol=2e-6)
    sex = frame["sex"].map({"f": 1, "m": 2}).fillna(0)
    index = np.stack([sex, 1 + frame["smoker"]], axis=1)
    assert np.array_equal(batch["tabular_categories"].numpy(), index)


def test_unseen_and_missing_values():
    train = {"tabular:a": ["1", "3", None, "n", *["5"] * 20], "tabular:b": ["x", "y", None, "x"]}
    columns = [fit_column(name, cells) for name, cells in train.items()]
    assert [each.kind for each in columns] == ["numbers", "categories"]
    cells = {
        "tabular:a": ["n/a", "inf", "1e400", None, "5.0"],
        "tabular:b": ["z", "", "y", "x", "x"],
    }
    found = encode(columns, cells, 5)
    assert found.known.tolist() == [[False]] * 4 + [[True]]
    assert found.numbers[:4].tolist() == [[0.0]] * 4
    assert found.categories.tolist() == [[0], [0], [2], [1], [1]]


def test_a_category_may_be_written_as_a_number():
    column = fit_column("tabular:a", ["1", "x", "2", "x"])
    assert column.categories == ("1", "2", "x")
    cells = {"tabular:a": ["1.0", "True", "x"]}
    assert encode([column], cells, 3).categories.tolist() == [[1], [0], [3]]


def test_only_the_most_frequent_categories_are_kept(monkeypatch):
    monkeypatch.setattr("fastrnn.fusion.data.tabular.MAX_CATEGORIES", 2)
    column = fit_column("tabular:a", ["b", "a", "c", "c", "b"])
    assert column.categories == ("b", "c")


def test_dates_with_a_zone_are_compared_as_instants():
    cells = ["2024-05-01T00:30:00+02:00", "2024-04-30T22:30:00Z", "2024-04-30T22:30:00"]
    column = fit_column("tabular:a", [*cells, "2024-05-02T12:00:00"])
    found = encode([column], {"tabular:a": cells}, 3).numbers
    assert found[0, 0] == found[1, 0] == found[2, 0]
    assert np.allclose(found[1], found[2])
    assert not np.allclose(found[0, 1:], found[1, 1:])  # the local day and time


def test_types_of_cells(tmp_path):
    table = pa.table(
        {
            "day": [datetime.date(2024, 1, 1 + n % 9) for n in range(20)],
            "n": pa.array([n * 7 % 20 / 4 for n in range(20)]).cast(pa.decimal128(6, 2)),
            "label": ["a", "b"] * 10,
        }
    )
    processor = Processor.fit(read_manifest(table), range(20), DataConfig())
    assert [each.kind for each in processor.tabular] == ["dates", "numbers"]
    assert not processor.tabular[0].clock
    frame = pd.DataFrame({"n": [[1]] * 20, "label": ["a", "b"] * 10})
    with pytest.raises(ManifestError, match=r"row 0, column 'n'.*not a number, a category or a"):
        read_manifest(frame, {"tabular": "n"})


def test_a_number_far_outside_the_training_range(frame):
    manifest = read_manifest(frame)
    processor = Processor.fit(manifest, range(ROWS), DataConfig())
    frame.loc[7, "age"] = 1e30
    changed = read_manifest(frame, manifest.columns, infer=())
    with pytest.raises(DataError, match="row 7: the number in column 'age' is more than 1e"):
        load_dataset(changed, processor)
    assert len(load_dataset(changed, processor, on_bad_row="skip")) == ROWS - 1


def test_a_row_without_any_cell_lacks_the_input(frame):
    frame["text"] = "a word"
    manifest = read_manifest(frame, {"tabular": ["age", "sex"], "text": "text", "label": "label"})
    frame.loc[3, ["age", "sex"]] = None
    empty = read_manifest(frame, manifest.columns, infer=())
    assert empty.missing == ("tabular",)
    assert not empty.rows[3].has("tabular")
    processor = Processor.fit(manifest, range(ROWS), DataConfig(vocabulary=256))
    dataset = load_dataset(empty, processor)
    batch = dataset.batch([2, 3])
    assert batch["tabular_present"].tolist() == [True, False]
    assert not batch["tabular_known"][1].any()
    rest = dataset.select([3, 2]).batch([1, 0])
    assert all(rest[key].equal(value) for key, value in batch.items())


def test_the_processor_is_saved_and_checked(frame, tmp_path):
    processor = Processor.fit(read_manifest(frame), range(ROWS), DataConfig())
    processor.save(tmp_path)
    assert Processor.load(tmp_path).tabular == processor.tabular
    saved = json.loads((tmp_path / CONFIG).read_text())
    for field, value, said in (
        ("kind", "texts", "kind must be one of numbers, dates, categories"),
        ("name", "age", "name must be a column such as tabular:age"),
        ("scale", [0, 0], r"scale\[1\] must be greater than 0"),
        ("scale", [float("nan"), 1], r"scale\[0\] must be at least"),
        ("categories", [3], r"categories\[0\] must be a string"),
    ):
        columns = [saved["tabular"][0] | {field: value}]
        with pytest.raises(ConfigError, match=said):
            parser.from_json(ProcessorConfig, saved | {"tabular": columns})
    for columns in ([], saved["tabular"] * 2):
        (tmp_path / CONFIG).write_text(json.dumps(saved | {"tabular": columns}))
        with pytest.raises(ConfigError, match="damaged: the tabular columns"):
            Processor.load(tmp_path)
    assert TabularColumn("tabular:a", "dates", clock=True).features == 7


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (chr(0xD800), "is not valid Unicode; fix it"),
        (10**5000, "a number with too many digits; shorten it"),
    ],
    ids=["surrogate", "digits"],
)
def test_a_cell_that_is_no_text(frame, cell, said):
    cells = pd.Series([cell, *range(len(frame) - 1)], dtype=object)
    table = frame[["label"]].assign(x=cells)
    with pytest.raises(ManifestError, match=f"row 0, column 'x': .*{said}"):
        read_manifest(table, {"tabular": "x"})
    assert len(read_manifest(table, {"tabular": "x"}, on_bad_row="skip").skipped) == 1


def test_dates_at_the_ends_of_the_calendar():
    cells = ["0001-01-01T00:00:00+01:00", "9999-12-31T23:30:00-01:00", "1970-01-01T01:00:00+01:00"]
    column = TabularColumn("tabular:x", "dates", clock=True)
    days = encode([column], {"tabular:x": cells[2:]}, 1).numbers[:, 0]
    assert days.tolist() == [0]
    assert encode([column], {"tabular:x": cells[:2]}, 2).known.all()
