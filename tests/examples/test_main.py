"""The command `python -m examples.multimodal`: its options and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.multimodal import __main__ as command
from fastrnn.fusion.checkpoint import METRICS


def test_demo_is_saved_in_a_new_folder_by_default(tmp_path, monkeypatch):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run_demo", lambda *given, **more: calls.append((given, more)))
    (tmp_path / "runs/article").mkdir(parents=True)
    assert command.main(["article", "--seed", "3", "--profile"]) == 0
    assert calls == [(("article", Path("runs/article-2"), 3), {"profile": True})]


def test_existing_run_is_not_overwritten(tmp_path, capsys):
    (tmp_path / METRICS).write_text("{}\n")
    assert command.main(["claim-check", "--output-dir", str(tmp_path)]) == 2
    assert "choose another folder with --output-dir" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == [METRICS]


def test_unwritable_folder_is_reported_in_one_line(tmp_path, capsys):
    path = tmp_path / "file"
    path.touch()
    for folder, text in (
        (path, "is a file; choose a folder with --output-dir"),
        (path / "run", f"{path}/run/data: Not a directory"),
    ):
        assert command.main(["claim-check", "--output-dir", str(folder)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert text in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", ["", "nonsense", "article --seed=-1", "article --threads=0"])
def test_wrong_options_are_rejected(arguments, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments.split())
    assert "usage: python -m examples.multimodal" in capsys.readouterr().err
