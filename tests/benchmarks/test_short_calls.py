"""The table of `python -m benchmarks.short_calls`."""

from contextlib import nullcontext

import pytest
import torch

from benchmarks import short_calls, timing


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_the_table_has_a_row_for_every_call_and_both_sides_agree_in_shape(kind, monkeypatch):
    monkeypatch.setitem(timing.TURN_MS, "cpu", 0.1)
    monkeypatch.setattr(timing, "_garbage_collection_disabled", nullcontext)  # it collects first
    threads = torch.get_num_threads()
    lines = short_calls.table(0.001, [(2, 3)], kind)
    names = short_calls.calls(2, 3, kind)
    assert len(lines) == 1 + len(names)
    assert torch.get_num_threads() == threads
    for line, (name, (ours, theirs)) in zip(lines[1:], names.items(), strict=True):
        assert line.startswith(name)
        assert all(float(ratio) > 0 for ratio in line.split()[-2:])
        assert ours().shape == theirs().shape, name
