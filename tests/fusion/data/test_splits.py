"""Test splitting rows: stratified, reproducible by seed, and with linked rows kept together."""

from __future__ import annotations

from collections import Counter

import pytest

from fastrnn.fusion.data.groups import linked
from fastrnn.fusion.data.manifest import read_manifest
from fastrnn.fusion.data.splits import split_rows
from fastrnn.fusion.errors import ManifestError
from tests.fusion.data.test_manifest import expect_error


def test_split_is_stratified_and_reproducible(rows, save):
    manifest = read_manifest(save(rows * 10))
    parts = split_rows(manifest, 0)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 160,
        "val": 20,
        "test": 20,
    }
    assert sorted(index for part in parts.values() for index in part) == list(range(200))
    for part in parts.values():
        yes = sum(manifest.rows[index].label == "yes" for index in part)
        assert abs(yes - len(part) / 2) <= 1
    assert split_rows(manifest, 0) == parts
    assert split_rows(manifest, 1) != parts


def test_rare_labels_are_in_train(rows, save):
    for number, name in enumerate(("a", "b", "c", "d")):
        rows[number]["label"] = name
    manifest = read_manifest(save(rows))
    for seed in range(10):
        assert {"a", "b", "c", "d"} <= set(manifest.labels(split_rows(manifest, seed)["train"]))


def test_split_column_without_val(rows, save):
    rows = [row | {"split": "test" if number > 14 else "train"} for number, row in enumerate(rows)]
    parts = split_rows(read_manifest(save(rows)))
    assert parts["test"] == [15, 16, 17, 18, 19]
    assert (len(parts["train"]), len(parts["val"])) == (13, 2)


def test_a_label_missing_in_train_is_an_error(rows, save):
    rows = [row | {"split": "val" if number > 14 else "train"} for number, row in enumerate(rows)]
    rows[17]["label"] = "perhaps"
    expect_error(save(rows), "line 18", "'perhaps'", "never in train")


def test_too_few_rows(rows, save):
    expect_error(save(rows[:9]), "9 rows are too few")


def test_a_single_label_is_an_error(rows, save):
    expect_error(save([row | {"label": "yes"} for row in rows]), "only one label (yes)")


def texts(labels, **columns):
    """Return rows with one text each, these labels, and further columns."""
    names = list(columns)
    return [
        {"text": f"row {number}", "label": label} | dict(zip(names, cells, strict=True))
        for number, (label, *cells) in enumerate(zip(labels, *columns.values(), strict=True))
    ]


def owners(parts, values):
    """Return value -> the names of the splits that contain rows with it."""
    found = {}
    for name, part in parts.items():
        for index in part:
            found.setdefault(values[index], set()).add(name)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_in_one_split(save, seed):
    groups = [f"speaker {number * number % 37}" for number in range(400)]
    labels = ["yes" if number % 3 else "no" for number in range(400)]
    manifest = read_manifest(save(texts(labels, group=groups)))
    parts = split_rows(manifest, seed)
    assert all(len(names) == 1 for names in owners(parts, groups).values())
    assert sorted(index for part in parts.values() for index in part) == list(range(400))
    assert parts == split_rows(manifest, seed)
    # A group has 11 or 22 rows, so each part is within one group of its share.
    for name, share in (("train", 320), ("val", 40), ("test", 40)):
        assert abs(len(parts[name]) - share) <= 22
        yes = sum(labels[index] == "yes" for index in parts[name]) / len(parts[name])
        assert abs(yes - 2 / 3) < 0.2
    assert parts != split_rows(manifest, seed + 1)


def test_groups_of_one_label_each(save):
    labels = [str(number // 10 % 4) for number in range(400)]
    groups = [number // 10 for number in range(400)]
    parts = split_rows(read_manifest(save(texts(labels, group=groups))))
    for name, count in (("train", 80), ("val", 10), ("test", 10)):
        assert Counter(labels[index] for index in parts[name]) == dict.fromkeys("0123", count)


def test_a_rare_label_in_a_group_is_in_train(save):
    labels = ["rare" if number in (50, 51) else str(number % 2) for number in range(100)]
    manifest = read_manifest(save(texts(labels, group=[number // 5 for number in range(100)])))
    for seed in range(10):
        assert "rare" in manifest.labels(split_rows(manifest, seed)["train"])


def test_an_empty_group_cell_means_no_group(save):
    labels = [str(number % 2) for number in range(40)]
    groups = ["a"] * 8 + [""] * 32
    parts = split_rows(read_manifest(save(texts(labels, group=groups), "csv")))
    assert owners(parts, groups)["a"] == {"train"}
    assert {name: len(part) for name, part in parts.items()} == {"train": 32, "val": 4, "test": 4}


@pytest.mark.parametrize("role", ["image", "audio"])
def test_a_file_stays_in_one_split(rows, save, role):
    files = [rows[number * 7 % 20][role] for number in range(60)]  # each file three times
    rows = [{role: file, "label": str(number % 2)} for number, file in enumerate(files)]
    parts = split_rows(read_manifest(save(rows)))
    assert all(len(names) == 1 for names in owners(parts, files).values())
    assert {name: len(part) for name, part in parts.items()} == {"train": 48, "val": 6, "test": 6}


def test_links_are_transitive(rows, save):
    # image 0 - audio 0 - image 1: three rows, two of which share no file
    rows[1]["audio"] = "0.wav"
    rows.append(rows[1] | {"audio": "1.wav"})
    rows[2]["group"], rows[5]["group"] = "a", "a"
    manifest = read_manifest(save(rows))
    sets = linked(manifest.rows, range(21))
    assert [each for each in sets if len(each) > 1] == [[0, 1, 20], [2, 5]]
    assert sorted(index for each in sets for index in each) == list(range(21))


def test_all_rows_linked(rows, save):
    path = save([row | {"image": "0.png"} for row in rows])
    expect_error(path, "share a file", "1 set for train, val, test", "give a split column")


def test_val_is_taken_from_train_in_sets(save):
    groups = [number // 4 for number in range(80)]
    split = ["train" if number < 60 else "test" for number in range(80)]
    rows = texts([str(number % 2) for number in range(80)], group=groups, split=split)
    parts = split_rows(read_manifest(save(rows)))
    assert parts["test"] == list(range(60, 80))
    assert all(len(names) == 1 for names in owners(parts, groups).values())
    assert 4 <= len(parts["val"]) <= 8


def test_a_file_in_two_given_splits_causes_a_warning(rows, save):
    rows = [row | {"split": "test" if number > 14 else "train"} for number, row in enumerate(rows)]
    assert read_manifest(save(rows)).warnings == ()
    rows[17]["image"], rows[18]["audio"] = "3.png", "4.wav"
    manifest = read_manifest(save(rows))
    (warning,) = manifest.warnings
    assert warning.startswith("3.png is in train (line 4) and in test (line 18) (1 more file like")
    assert split_rows(manifest)["test"] == [15, 16, 17, 18, 19]


def test_equal_texts_in_two_given_splits_cause_a_warning(save):
    rows = [{"text": f"text {n}", "label": n % 2, "split": "train"} for n in range(10)]
    rows += [row | {"split": "test"} for row in rows[2:5]]
    (warning,) = read_manifest(save(rows)).warnings
    said = "the text 'text 2' is in train (line 3) and in test (line 11) (2 more texts like it)"
    assert warning.startswith(said)
    rows[3]["text"] = rows[4]["text"] = "others"
    assert "line 11): scores may be too high" in read_manifest(save(rows)).warnings[0]


def test_rows_without_a_text_have_no_equal_text(save):
    rows = [{"text": f"text {n}", "x": n, "label": n % 2, "split": "train"} for n in range(10)]
    rows[3]["text"] = None
    rows += [rows[3] | {"split": "test"}]
    assert read_manifest(save(rows), {"tabular": "x"}).warnings == ()


def test_equal_series_in_two_given_splits_cause_a_warning(save):
    rows = [
        {"series": [n % 7, 1], "label": n % 2, "split": "test" if n > 7 else "train"}
        for n in range(9)
    ]
    (warning,) = read_manifest(save(rows)).warnings
    assert warning.startswith("the series is in train (line 2) and in test (line 9): scores may")


def test_a_group_in_two_given_splits_is_an_error(rows, save):
    rows = [
        row | {"split": "test" if n > 14 else "train", "group": n % 15}
        for n, row in enumerate(rows)
    ]
    expect_error(save(rows), "the group '0' is in train (line 1) and in test (line 16)", "fix")


def test_regression_values_are_stratified(save):
    manifest = read_manifest(save(texts([number / 7 for number in range(200)])))
    assert manifest.problem_type == "regression"
    parts = split_rows(manifest)
    for name in ("val", "test"):
        mean = sum(float(manifest.rows[index].label) for index in parts[name]) / 20
        assert abs(mean - 99.5 / 7) < 2  # two rows per decile: off by at most half a decile, 1.4


def test_a_single_regression_value_is_an_error(save):
    expect_error(save(texts([1.5] * 20)), "the same label value", problem_type="regression")


def test_spellings_of_one_number_are_one_value(save):
    expect_error(save(texts(["1", "1.0"] * 10)), "the same label value", problem_type="regression")


def test_rows_are_stratified_by_their_rarest_label(save):
    labels = [["all", "rare"] if number % 20 == 0 else ["all", "often"] for number in range(200)]
    manifest = read_manifest(save(texts(labels)), problem_type="multilabel")
    parts = split_rows(manifest)
    counts = {name: sum(index % 20 == 0 for index in part) for name, part in parts.items()}
    assert counts == {"train": 8, "val": 1, "test": 1}


def test_an_unknown_split_is_rejected_on_reading(rows, save):
    with pytest.raises(ManifestError, match="not train, val or test"):
        read_manifest(save([row | {"split": "holdout"} for row in rows]))
