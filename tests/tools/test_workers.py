"""Processes that die, hang or are killed, and the record of them."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.jsonl import read
from tools.gpu_validation import results, validate
from tools.gpu_validation.workers import Worker, excerpt, supervise

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_plugin_resumes_after_a_test_that_ended_its_process(tmp_path: Path) -> None:
    """One of three tests ends its process. The next process runs the remaining tests."""
    (tmp_path / "test_three.py").write_text(
        "import os\n"
        "def test_first(): pass\n"
        "def test_second(): os._exit(1)\n"
        "def test_third(): assert False\n"
    )
    path = tmp_path / "journal.jsonl"
    command = [sys.executable, "-m", "pytest", "-p", "tests.gpu.outcomes", "--journal", str(path)]
    worker = Worker((*command, "-p", "no:cacheprovider", str(tmp_path)), path)
    supervise([worker], time.time() + 100, {"PYTHONPATH": str(ROOT)})
    found = results.correctness([read(path)])
    assert found["kernels"]["three"]["all"] == {
        "passed": 1,
        "failed": 2,
        "skipped": 0,
        "not reached": 0,
    }
    assert found["errors"] == []


@pytest.mark.slow
def test_the_beginning_and_the_end_of_an_output_are_kept(tmp_path: Path) -> None:
    """A test aborts like C++: a line on stderr, then a traceback of every thread."""
    (tmp_path / "test_two.py").write_text(
        "import os\n"
        "def test_first():\n"
        "    os.write(2, b'terminate called after throwing\\n' + b'  a frame\\n' * 1000)\n"
        "    os.write(2, b'the last frame\\n')\n"
        "    os.abort()\n"
        "def test_second(): pass\n"
    )
    path = tmp_path / "journal.jsonl"
    command = [sys.executable, "-m", "pytest", "-p", "tests.gpu.outcomes", "--journal", str(path)]
    command += [*validate.PYTEST, "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    supervise(
        [Worker((*command, str(tmp_path)), path)], time.time() + 100, {"PYTHONPATH": str(ROOT)}
    )
    found = results.correctness([read(path)])
    (failed,) = found["failed"]
    assert "terminate called after throwing\n" in failed["reason"]
    assert " characters left out]\n" in failed["reason"]
    assert "the last frame" in failed["reason"]
    assert len(failed["reason"]) < 3000
    assert found["kernels"]["two"]["all"]["passed"] == 1


def test_excerpt_shortens_only_long_texts() -> None:
    assert excerpt("short") == "short"
    assert excerpt("x" * 2500) == "x" * 2500
    assert excerpt("a" * 1000 + "b" * 7 + "c" * 1500) == (
        "a" * 1000 + "\n[7 characters left out]\n" + "c" * 1500
    )


def test_a_worker_that_always_fails_is_not_restarted(tmp_path: Path) -> None:
    worker = Worker((sys.executable, "-c", "raise SystemExit('no such thing')"), tmp_path / "j")
    supervise([worker], time.time() + 100)
    (entry,) = read(worker.journal)
    assert entry["event"] == "died"
    assert "no such thing" in entry["said"]


def test_workers_are_killed_at_the_deadline(tmp_path: Path) -> None:
    start = time.time()
    worker = Worker((sys.executable, "-c", "import time; time.sleep(1000)"), tmp_path / "j")
    supervise([worker], start + 0.5)
    assert time.time() - start < 20
    assert read(worker.journal) == []
