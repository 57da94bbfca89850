"""`python -m fastrnn`: the diagnostic report and the dispatch to commands."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import fastrnn
from fastrnn import info
from fastrnn.__main__ import main
from fastrnn.ops.backends import dispatch
from fastrnn.ops.backends.dispatch import BackendStatus

WITHOUT_TYPER = "raise ModuleNotFoundError('no typer', name='typer')"


@pytest.fixture(autouse=True)
def short_calls(monkeypatch):
    monkeypatch.setattr(info, "STEPS", 3)


def line(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def fastrnn_command(*arguments):
    """Run the command, which imports torch only if it needs it."""
    return subprocess.run(
        [sys.executable, "-m", "fastrnn", *arguments], capture_output=True, text=True
    )


@pytest.fixture
def without_typer(tmp_path, monkeypatch):
    """Hide typer from new processes."""
    (tmp_path / "typer.py").write_text(WITHOUT_TYPER)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(tmp_path), *([inherited] if inherited else [])])
    monkeypatch.setenv("PYTHONPATH", path)


def test_report_times_every_usable_backend(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert f"fastrnn {fastrnn.__version__}" in text
    for status in dispatch.backends().values():
        assert (" ms " if status.reason is None else status.reason) in line(text, status.name)
    assert line(text, "one call").split()[2:] == ["RNN", "LSTM", "GRU"]
    assert line(text, "torch.nn").count(" ms ") == line(text, "reference").count(" ms ") == 3


def test_report_omits_layers_that_a_backend_does_not_support(capsys, monkeypatch):
    unsupported = SimpleNamespace(unsupported_reason=lambda call: call.mode != "RNN_TANH" or None)
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", unsupported)
    monkeypatch.setattr(dispatch, "backends", lambda: {"cpu": BackendStatus("cpu", None, "fast")})
    monkeypatch.setattr(info, "_time_backend", lambda name, kind: 1e-3)
    assert info.main() == 0
    assert line(capsys.readouterr().out, "cpu").split() == ["cpu", "1.000", "ms", "-", "-", "fast"]


def test_report_gives_the_reason(capsys, monkeypatch):
    status = [BackendStatus("reference", None, "plain"), BackendStatus("cpu", "not compiled", "")]
    monkeypatch.setattr(dispatch, "backends", lambda: {one.name: one for one in status})
    assert info.main() == 0
    text = capsys.readouterr().out
    assert "unavailable: not compiled" in line(text, "cpu")


@pytest.mark.parametrize(("backend", "code"), [("reference", 1), ("cpu", 0)])
def test_report_survives_a_failing_call(capsys, monkeypatch, backend, code):
    def fail(name, kind):
        if name == backend:
            raise RuntimeError("kernel failed")
        return 1e-3

    status = [BackendStatus("reference", None, "plain"), BackendStatus("cpu", None, "fast")]
    monkeypatch.setattr(dispatch, "backends", lambda: {one.name: one for one in status})
    monkeypatch.setattr(info, "_time_backend", fail)
    assert info.main() == code
    assert "RuntimeError: kernel failed" in line(capsys.readouterr().out, backend)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastrnn {fastrnn.__version__}\n"


@pytest.mark.usefixtures("without_typer")
def test_help_without_the_extra():
    process = fastrnn_command("--help")
    assert process.returncode == 0, process.stderr
    assert "usage: fastrnn" in process.stdout
    assert "pip install 'fastrnn[fusion]'" in process.stdout


@pytest.mark.usefixtures("without_typer")
def test_command_without_the_extra():
    process = fastrnn_command("fit", "table.csv")
    assert process.returncode == 2
    assert process.stderr == (
        "The commands need typer, which is not installed: pip install 'fastrnn[fusion]'\n"
    )


def test_help_lists_the_commands():
    pytest.importorskip("typer")
    process = fastrnn_command("--help")
    assert process.returncode == 0, process.stderr
    assert "usage: fastrnn" in process.stdout
    assert "predict" in process.stdout
