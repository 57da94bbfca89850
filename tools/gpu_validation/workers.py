"""Run processes that may hang or die, and restart them until they finish or the time is up."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.jsonl import append, read
from benchmarks.process import kill


class Worker(NamedTuple):
    """A command that resumes its journal, and appends "finished" to it at the end."""

    command: Sequence[str]
    journal: Path

    @property
    def log(self) -> Path:
        return self.journal.with_suffix(".log")


def is_finished(journal: Path) -> bool:
    return any(entry["event"] == "finished" for entry in read(journal))


def supervise(
    workers: Sequence[Worker],
    deadline: float,  # of time.time()
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run all workers in parallel, restart those that die, and kill the rest at the deadline.

    The death of a process is appended to the worker's journal. A process that died before it
    appended anything is not restarted, because it would die again.
    """
    lengths: dict[Worker, int] = {}
    running: dict[Worker, subprocess.Popen] = {}
    try:
        for worker in workers:
            lengths[worker] = 0
            running[worker] = _start(worker, environment)
        while running and time.time() < deadline:
            time.sleep(0.1)
            for worker, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[worker]
                if is_finished(worker.journal):
                    continue
                length = len(read(worker.journal))
                append(
                    worker.journal, event="died", status=process.returncode, said=output_of(worker)
                )
                if length > lengths[worker]:
                    lengths[worker] = length + 1
                    running[worker] = _start(worker, environment)
    finally:
        for process in running.values():
            kill(process)


def output_of(worker: Worker) -> str:
    """Return the output of a worker since its last start."""
    return excerpt(worker.log.read_text(errors="replace")) if worker.log.exists() else ""


def excerpt(text: str, first: int = 1000, last: int = 1500) -> str:
    """Return the beginning and the end of an output; either may tell why a process died."""
    left_out = len(text) - first - last
    if left_out <= 0:
        return text
    return f"{text[:first]}\n[{left_out} characters left out]\n{text[-last:]}"


def _start(worker: Worker, environment: Mapping[str, str] | None) -> subprocess.Popen:
    with worker.log.open("w") as log:
        return subprocess.Popen(
            worker.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # a process group, so that its children can be killed too
        )
