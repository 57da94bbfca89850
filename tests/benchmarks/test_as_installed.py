"""The table of `python -m benchmarks.as_installed`."""

import pytest

import fastrnn
from benchmarks import as_installed


@pytest.mark.slow
def test_the_table_has_a_row_for_every_shape():
    shapes = (((5, 2, 3, 4), {"num_layers": 2, "bidirectional": True}), ((1, 2, 3, 4), {}))
    with fastrnn.use_backend("auto"):
        header, *rows = as_installed.table(0.001, shapes)
    assert header.split()[-2:] == ["inference", "training"]
    assert [row.split("  ")[0].strip() for row in rows] == ["(5, 2, 3, 4)", "(1, 2, 3, 4)"]
    assert all(float(ratio) > 0 for row in rows for ratio in row.split()[-2:])
