"""The instructions of a step, counted by tools/cpu_counts.py."""

import shutil
from pathlib import Path

import pytest

from tools import cpu_counts


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_of_a_step(tmp_path: Path) -> None:
    program = cpu_counts.build(tmp_path)
    one = cpu_counts.counts(program, "forward", 1, 64)
    assert 64 * 8 < one < 64 * 8 * 4
    assert one < cpu_counts.counts(program, "forward", 4, 64) < 6 * one
    assert cpu_counts.SHORT * one < cpu_counts.counts_of_call(program, 1, 64) < 30 * one


def test_missing_valgrind_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "valgrind" else tool)
    assert cpu_counts.main() == 1
    assert capsys.readouterr().err == "valgrind is not installed\n"
