"""The table of `python -m benchmarks.short_calls`."""

import pytest
import torch

from benchmarks import short_calls


@pytest.mark.parametrize(
    "kind", ["LSTM", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("RNN", "GRU"))]
)
def test_the_table_has_a_row_for_every_call_and_both_sides_agree_in_shape(kind):
    threads = torch.get_num_threads()
    lines = short_calls.table(0.001, [(2, 3)], kind)
    names = short_calls.calls(2, 3, kind)
    assert len(lines) == 1 + len(names)
    assert torch.get_num_threads() == threads
    for line, (name, (ours, theirs)) in zip(lines[1:], names.items(), strict=True):
        assert line.startswith(name)
        assert all(float(ratio) > 0 for ratio in line.split()[-2:])
        assert ours().shape == theirs().shape, name
