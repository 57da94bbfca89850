"""The table of `python -m benchmarks.contention`."""

import os

import pytest

from benchmarks import contention

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of processes"
)

SHAPES = (("LSTM", (1, 2, 3, 4)),)


@pytest.mark.exhaustive
def test_the_table_has_two_rows_for_every_shape_and_a_column_for_every_condition():
    before = contention.usable_cpus()
    header, *rows = contention.table(0.001, SHAPES)
    assert contention.usable_cpus() == before
    assert header.split("  ")[-1].strip() == "one CPU"
    assert [row.split()[0] for row in rows] == ["LSTM", "LSTM"]
    for row in rows:
        assert all(float(ratio) > 0 for ratio in row.split()[-len(contention.CONDITIONS) :])


@pytest.mark.slow
def test_a_process_that_fails_is_reported():
    with pytest.raises(RuntimeError, match=r"alone: [\s\S]*no attribute 'FusedNone'"):
        contention.under("alone", 0.001, (("None", (1, 1, 1, 1)),))
