"""The process that runs emulated kernels, see server.cpp."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
SECONDS = 300.0  # time limit of a call


class EmulationError(Exception):
    """The emulator found a fault, or a launch failed; the message says which."""


class Crash(EmulationError):
    """A sanitizer or a signal ended the process; the message is its report."""


class Server:
    """It is restarted after a crash."""

    def __init__(self, executable: Path) -> None:
        self._executable = executable
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, header: Mapping[str, object], inputs: list[bytes], sizes: list[int]) -> Any:
        """The results, of `sizes` bytes each."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        line = " ".join(f"{name}={value}" for name, value in header.items())
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line.encode() + b"\n" + b"".join(inputs))
                process.stdin.flush()
            answer = process.stdout.readline().decode().strip()
            if answer == "ok":
                return [bytearray(process.stdout.read(size)) for size in sizes]
        finally:
            in_time = limit.is_alive()
            limit.cancel()
        if answer.startswith("error "):
            raise EmulationError(f"{answer[6:]}\nin {line}")
        code = process.wait()
        self._errors.seek(0)
        report = self._errors.read().decode(errors="replace")[:6000]
        self.close()
        reason = f"ended with {code}" if in_time else f"took more than {SECONDS:.0f} s"
        raise Crash(f"the emulator {reason}\n{report}\nin {line}")

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
            self._process = subprocess.Popen(
                [self._executable],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | SANITIZERS,
            )
        return self._process
