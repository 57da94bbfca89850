"""The lock of the process that trains a run, in the folder `checkpoint` of the run's folder."""

from __future__ import annotations

import fcntl
import os
import shlex
from pathlib import Path
from typing import IO

from .errors import ConfigError

FOLDER = "checkpoint"
CALL = f"{FOLDER}/run.json"  # exists as long as the run is incomplete
LOCK = "lock"


def unfinished(folder: Path) -> str | None:
    """Return a message if a run is incomplete; None if it is complete or there is no run."""
    if not (folder / CALL).is_file():
        return None
    try:
        with (folder / FOLDER / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"{folder}: another process is training this run; wait until it is complete"
    except OSError:
        pass  # the lock was never taken, or the file system has no locks
    return f"{folder}: the run was interrupted; resume it with: {command(folder)}"


def command(folder: Path) -> str:
    """Return the command that resumes a run."""
    return f"fastrnn fit --resume {shlex.quote(str(folder))}"


class Lock:
    """Context manager that stops other processes from training the run of a folder.

    The lock is released when the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            _held.discard(self._file)
            self._file.close()

    def take(self, make: bool = False) -> None:
        """Lock the run if it is not locked yet.

        Args:
            make: whether to create the folder; without it, only an existing run is locked.

        Raises:
            ConfigError: another process is training the run.
        """
        place = self._folder / FOLDER
        if make:
            place.mkdir(parents=True, exist_ok=True)
        if self._file is not None or not place.is_dir():
            return
        try:
            file = (place / LOCK).open("ab")
        except FileNotFoundError:  # the run has just finished
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigError(
                f"{self._folder}: another process is training this run; wait until it is complete, "
                "or stop it first"
            ) from None
        except OSError:
            pass  # the file system has no locks, so only this protection is lost
        self._file = file
        _held.add(file)


_held: set[IO[bytes]] = set()


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


# A forked process, such as a data loader's, would keep the lock after its parent is killed.
os.register_at_fork(after_in_child=_let_go)
