"""The prompt before a fit on columns that were inferred."""

from __future__ import annotations

import io
import sys

import pytest

from fastrnn.fusion.training import run as experiment
from tests.fusion.cli.test_cli import _stop, fit


class Terminal(io.StringIO):
    """A standard input that is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("typed", "more", "code", "asked"),
    [
        ("n\n", [], 1, True),
        ("y\n", [], 2, True),
        ("", ["--yes"], 2, False),
        (
            "",
            ["--image", "image", "--audio", "audio", "--text", "text", "--label", "label"],
            2,
            False,
        ),
    ],
)
def test_inferred_columns_are_confirmed(
    rows, save, tmp_path, monkeypatch, capsys, typed, more, code, asked
):
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: _stop())
    assert fit(save(rows), tmp_path / "run", *more) == code
    said = capsys.readouterr()
    assert ("Train on these columns?" in said.out) == asked
    assert ("image = image (inferred" in said.out) == asked
    assert ("enough" in said.err) == (code == 2)  # training would have begun


def test_no_prompt_without_a_terminal(rows, save, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: _stop())
    assert fit(save(rows), tmp_path / "run") == 2
    said = capsys.readouterr()
    assert "Train on these columns?" not in said.out
    assert "enough" in said.err
