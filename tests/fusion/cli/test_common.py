"""The table that a command evaluates a run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastrnn.fusion import DataError
from fastrnn.fusion.cli.common import evaluation_table

from ..trained import trained_run


def test_the_table_of_the_run_is_read_as_by_the_run(tmp_path):
    run = trained_run(tmp_path, "binary", baselines=False)
    table = Path(run.config.manifest)
    with table.open("a") as file:
        file.write('{"image": "0.png", "audio": "0.wav", "text": "x", "label": {}}\n')
    with pytest.raises(DataError, match="line 41"):
        evaluation_table(run.folder, table, None, {}, None)
    (run.folder / "skipped.jsonl").touch()
    assert len(evaluation_table(run.folder, table, None, {}, None).skipped) == 1
    other = table.with_name("other.jsonl")
    other.write_bytes(table.read_bytes())
    with pytest.raises(DataError, match="line 41"):
        evaluation_table(run.folder, other, None, {}, None)
