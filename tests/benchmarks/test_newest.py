"""The measurements that the pages show: the newest of each machine."""

import copy
from pathlib import Path

import pytest

from benchmarks.report import pages, records
from benchmarks.roofline import model

from .factories import full


def test_newest_full_record_of_each_machine_counts(tmp_path: Path) -> None:
    old, new = full(), full(2.0)
    new["machine"] = {**new["machine"], "date": "2031-01-02T03:04+00:00"}
    quick = copy.deepcopy(full(3.0))
    quick["machine"]["date"] = "2032-01-02T03:04+00:00"
    quick["selection"] |= {"shapes": "quick", "peers": "most"}
    broken = copy.deepcopy(full(4.0))
    broken["machine"]["date"] = "2033-01-02T03:04+00:00"
    broken["selection"]["complete"] = False
    for one in (old, new, quick, broken):
        records.write(one, tmp_path)
    (tmp_path / "some-x-1-avx2-2-threads" / "2033-a-check.json").write_text("{}")
    assert pages.newest(tmp_path) == {"some-x-1-avx2-2-threads": new}


def test_a_cpu_without_a_full_table_shows_its_newest_record_of_all_cells(tmp_path: Path) -> None:
    quick, cells, later, broken = full(), full(2.0), full(3.0), full(4.0)
    chosen = "quick", "cells", "mixed-lstm,mixed-gru", "cells"
    for year, (shapes, one) in enumerate(zip(chosen, (quick, cells, later, broken), strict=True)):
        one["machine"] = {**one["machine"], "date": f"203{year}-01-02T03:04+00:00"}
        one["selection"] = {**one["selection"], "shapes": shapes, "complete": one is not broken}
        records.write(one, tmp_path)
    assert pages.newest(tmp_path) == {"some-x-1-avx2-2-threads": later}
    whole = full(5.0)
    records.write(whole, tmp_path)
    (shown,) = pages.newest(tmp_path).values()
    assert shown["selection"]["shapes"] == "full"


def test_groups_measured_later_with_the_same_budget_replace_those_of_the_full_table(
    tmp_path: Path,
) -> None:
    old, late = full(), copy.deepcopy(full(2.0))
    group = late["rows"][0]["group"]
    late["machine"] |= {"date": "2031-01-02T03:04+00:00", "commit": "def5678"}
    late["selection"]["shapes"] = group
    late["rows"] = [row for row in late["rows"] if row["group"] == group]
    hasty, other = copy.deepcopy(late), copy.deepcopy(late)
    hasty["machine"]["date"] = "2032-01-02T03:04+00:00"
    hasty["selection"]["budget_s"] /= 2
    other["machine"] |= {"date": "2033-01-02T03:04+00:00", "torch": "2.14.0"}
    for one in (old, late, hasty, other):
        records.write(one, tmp_path)
    (shown,) = pages.newest(tmp_path).values()
    assert [row for row in shown["rows"] if row["group"] == group] == late["rows"]
    assert [row for row in shown["rows"] if row["group"] != group] == [
        row for row in old["rows"] if row["group"] != group
    ]
    assert f"Measured later, at def5678: {group}." in pages.described(shown)


def test_a_later_group_brings_the_versions_that_the_full_table_does_not_know(
    tmp_path: Path,
) -> None:
    old, late = full(), copy.deepcopy(full())
    late["machine"] |= {"date": "2031-01-02T03:04+00:00", "openvino": "2026.4.1", "jax": None}
    late["selection"]["shapes"] = "overview"
    late["rows"] = [row for row in late["rows"] if row["group"] == "overview"]
    other = copy.deepcopy(late)
    other["machine"] |= {"date": "2032-01-02T03:04+00:00", "openvino": "2027.0"}
    for one in (old, late, other):
        records.write(one, tmp_path)
    (shown,) = pages.newest(tmp_path).values()
    assert shown["machine"]["openvino"] == "2026.4.1"  # `other` has another version
    assert "torch 2.13.0, openvino 2026.4.1; commit" in pages.described(shown)


def test_bounds_use_the_best_rates_of_all_records_of_a_machine(tmp_path: Path) -> None:
    def measured(rate: float) -> records.Row:
        of_steps = {"inference": 1e-6, "forward": 1e-6, "training": 1e-6}
        return {
            "threads": 2,
            "register_bytes": 512,
            "gemm": {"float32": rate},
            "call": of_steps,
            "multiply_add_rate": rate / 2,
            "multiply_add_rate_all": rate,
            "multiply_add_latency": 1e-9,
            "store_load_latency": 1e-9,
            "bandwidth": {"1024": 1e12},
            "bandwidth_all": {"1024": 2e12},
        }

    whole, quick = full(), full()
    whole["calibration"] = {"measured": measured(1e9), "errors": []}
    quick["calibration"] = {"measured": measured(2e9), "errors": []}
    quick["selection"]["shapes"] = "quick"
    for one in (whole, quick):
        records.write(one, tmp_path)
    (shown,) = pages.newest(tmp_path).values()
    assert shown["calibration"]["measured"]["gemm"]["float32"] == 2e9
    for row, old in zip(shown["rows"], whole["rows"], strict=True):
        assert {key: row[key] for key in row if key != "floor"} == {
            key: old[key] for key in old if key != "floor"
        }
        if "floor" in old:
            seconds = model.flops(records.case(row)) / 2e9
            assert row["floor"]["arithmetic"] == pytest.approx(1e3 * seconds, rel=1e-3)
