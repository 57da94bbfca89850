"""Commands with a time limit."""

import sys
import time

from benchmarks.process import run


def test_a_command_returns_its_status_and_output() -> None:
    script = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert run([sys.executable, "-c", script], 60) == (3, "out\nerr\n")


def test_a_command_and_its_children_are_killed_at_the_limit() -> None:
    script = "echo first; sleep 1000 & sleep 1000"
    start = time.time()
    assert run(["sh", "-c", script], 0.5) == (None, "first\n")
    assert time.time() - start < 20


def test_the_environment_extends_that_of_this_process() -> None:
    status, output = run(["sh", "-c", 'echo $ADDED; test -n "$PATH"'], 60, {"ADDED": "value"})
    assert (status, output) == (0, "value\n")
