"""Test that the commands accept the old names of options and print a note with the new one."""

from __future__ import annotations

import json

import pytest

from fastrnn.fusion import cli
from fastrnn.fusion.config.renamed import RENAMED
from tests.fusion.cli.test_cli import TINY, fit

OLD_FLAGS = ["--kind", "binary", "--rate=0.01", "--batch", "8", "--accumulate=2", "--clip", "2"]


def note(old, new):
    return f"note: {old} is now {new}; the next release will not accept the old name"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_flag_prints_a_note(old, new, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "gone.csv", f"--{old}", "1"]) == 2
    first, error = capsys.readouterr().err.splitlines()
    assert first == note(f"--{old}", f"--{new.replace('_', '-')}")
    assert error.startswith("error: ")


def test_old_flags_set_the_options(rows, save, tmp_path, capsys):
    out = tmp_path / "run"
    rows = [{name: row[name] for name in ("text", "label")} for row in rows]
    arguments = ["fit", str(save(rows)), "--out", str(out), "--epochs", "1", "--no-baselines"]
    assert cli.main([*arguments, *TINY, *OLD_FLAGS]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 6
    config = json.loads((out / "config.json").read_text())
    assert config["train"]["learning_rate"] == 0.01
    assert config["train"]["gradient_accumulation_steps"] == 2
    assert config["train"]["max_grad_norm"] == 2


def test_only_the_main_process_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["fit", "gone.csv", "--rate", "1"]) == 2
    assert "note: " not in capsys.readouterr().err


def test_help_lists_only_the_new_names(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["fit", "--help"]) == 0
    words = capsys.readouterr().out.split()
    assert "--learning-rate" in words
    assert not {f"--{old}" for old in RENAMED} & set(words)


def test_old_names_in_the_options_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options.yaml").write_text("rate: 0.01\nworkers: 1\n")
    assert cli.main(["fit", "gone.csv", "--config", "options.yaml"]) == 2
    notes = capsys.readouterr().err.splitlines()[:-1]
    assert notes == [note("rate", "learning_rate"), note("workers", "num_workers")]


@pytest.mark.slow
def test_run_of_an_earlier_version(rows, save, tmp_path, capsys):
    """Its config.json has the old names."""
    out = tmp_path / "run"
    path = save([{name: row[name] for name in ("text", "label")} for row in rows])
    assert fit(path, out, "--no-baselines") == 0
    for file in out.rglob("config.json"):
        text = file.read_text()
        for old in ("kind", "rate", "batch", "clip", "accumulate"):
            text = text.replace(f'"{RENAMED[old]}"', f'"{old}"')
        file.write_text(text)
    capsys.readouterr()
    assert cli.main(["evaluate", str(out)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == sorted(
        note(old, RENAMED[old]) for old in ("kind", "rate", "batch", "clip", "accumulate")
    )
