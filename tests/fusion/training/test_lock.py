"""Test that only one process at a time trains a run."""

from __future__ import annotations

import os
import signal

import pytest

from fastrnn.fusion import ConfigError, run_lock
from fastrnn.fusion.training import run as experiment

from .conftest import QUIET, content, quick, stopped_at


@pytest.mark.slow
def test_only_one_process_trains_a_run(manifest, tmp_path, monkeypatch):
    quick(manifest, tmp_path / "once")
    folder = tmp_path / "run"
    with stopped_at(monkeypatch, 3):
        quick(manifest, folder)
    before = content(folder)
    with run_lock.Lock(folder) as lock:
        lock.take()
        lock.take()  # already locked
        for again in (
            lambda: experiment.resume(folder, QUIET),
            lambda: quick(manifest, folder, resume=True),
        ):
            with pytest.raises(ConfigError, match="another process is training this run; wait"):
                again()
        assert "another process is training" in run_lock.unfinished(folder)
        assert content(folder) == before
    assert run_lock.unfinished(folder).endswith(
        f"the run was interrupted; resume it with: fastrnn fit --resume {folder}"
    )
    experiment.resume(folder, QUIET)
    assert content(folder) == content(tmp_path / "once")
    assert run_lock.unfinished(folder) is None


def test_two_runs_started_at_the_same_time(manifest, tmp_path, monkeypatch):
    """The second run detects the first before it writes anything."""
    folder, load = tmp_path / "run", experiment.prepare
    expected = None

    def first_begins(*arguments):
        nonlocal expected
        monkeypatch.setattr(experiment, "prepare", load)
        with stopped_at(monkeypatch, 1):
            quick(manifest, folder)
        expected = content(folder)
        return load(*arguments)

    monkeypatch.setattr(experiment, "prepare", first_begins)
    with pytest.raises(ConfigError, match=r"already contains checkpoint/run\.json; resume it"):
        quick(manifest, folder)
    assert content(folder) == expected


@pytest.mark.filterwarnings("ignore:.*fork")
def test_the_lock_is_released_with_the_process(tmp_path):
    """The lock is released even if the process leaves a forked child behind."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with run_lock.Lock(tmp_path) as lock:
            lock.take(make=True)
            left = os.fork()
            if left:
                os.write(writer, left.to_bytes(8, "big"))
            signal.pause()
    left = int.from_bytes(os.read(reader, 8), "big")
    try:
        with run_lock.Lock(tmp_path) as lock, pytest.raises(ConfigError, match="another process"):
            lock.take()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.kill(left, 0)  # the child still exists
        with run_lock.Lock(tmp_path) as lock:
            lock.take()
    finally:
        os.kill(left, signal.SIGKILL)
        os.close(reader)
        os.close(writer)
