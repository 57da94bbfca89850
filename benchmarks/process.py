"""Run commands with a time limit, and kill their child processes with them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress


def run(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Run a command, and return its exit status and its combined stdout and stderr.

    The status is None if the command exceeded the limit.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired as expired:
        kill(process)
        output = expired.output or b""
        return None, output.decode(errors="replace") if isinstance(output, bytes) else output


def kill(process: subprocess.Popen) -> None:
    """Kill the process group of a process that was started with `start_new_session`."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    with suppress(subprocess.TimeoutExpired):  # a process may hang in the GPU driver
        process.wait(10)
