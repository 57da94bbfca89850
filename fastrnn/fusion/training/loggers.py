"""Training logs: a progress bar on a terminal, plain lines elsewhere, and metrics.jsonl."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate.tracking import GeneralTracker
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .. import files
from ..errors import ConfigError

_KEYS = {"model", "epoch", "split", "loss", "seconds"}
_PATIENCE = 30.0  # seconds without output after which a line reports progress within the epoch


class Log:
    """Context manager that logs the training of models. Each record is one line of `file`.

    Args:
        size: bytes of `file` to keep; later records of an interrupted run are cut off.
        main: False in processes that print and write nothing.
        trackers: accelerate's trackers, which get the same metrics as MODEL/SPLIT/NAME.
    """

    def __init__(
        self,
        file: Path,
        console: Console | None = None,
        *,
        size: int | None = None,
        main: bool = True,
        trackers: Sequence[GeneralTracker] = (),
    ) -> None:
        self.console = (console or Console()) if main else Console(quiet=True)
        self._trackers = trackers
        self._path = file
        self._file = file.open("a", encoding="utf-8") if main else None
        if self._file and size is not None:
            self._file.truncate(size)
        self._progress: Progress | None = None
        if self.console.is_terminal and not self.console.quiet:
            self._progress = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(bar_width=24),
                TextColumn("epoch {task.fields[epoch]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[pace]}"),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )

    def __enter__(self) -> Log:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress:
            self._progress.stop()
        for tracker in self._trackers:
            tracker.finish()
        if self._file:
            with files.named(self._path):
                self._file.close()

    def record(self, model: str, epoch: int, split: str, seconds: float, **values: float) -> None:
        """Append one JSON object to the metrics file, and log its values to the trackers."""
        if self._file:
            with files.named(self._path):
                place = {"model": model, "epoch": epoch, "split": split}
                self._file.write(json.dumps({**place, **values, "seconds": seconds}) + "\n")
                self._file.flush()
        for tracker in self._trackers:
            named = {f"{model}/{split}/{name}": value for name, value in values.items()}
            if tracker.name == "wandb":  # its steps may not fall, as with the epochs of a new model
                tracker.log({**named, f"{model}/epoch": epoch}, step=None)
            else:
                tracker.log(named, step=epoch)

    def size(self) -> int:
        """Sync the metrics file to the disk and return its size in bytes."""
        if self._file is None:
            return 0
        with files.named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def begin(self, model: str, epochs: int, rows: int, done: int = 0) -> None:
        """Start a model of `epochs` epochs of `rows` rows, of which `done` rows are done."""
        self._model, self._epochs, self._rows = model, epochs, rows
        self._first = self._done = done
        self._start = self._said = time.perf_counter()
        if self._progress:
            self._task = self._progress.add_task(
                model, total=epochs * rows, completed=done, epoch=f"0/{epochs}", pace="", note=""
            )

    def advance(self, rows: int) -> None:
        """Add `rows` to the rows that the model has been trained on."""
        self._done += rows
        if self._progress:
            self._progress.update(self._task, completed=self._done, pace=self.pace())
        elif time.perf_counter() - self._said > _PATIENCE:
            share = 100 * self._done // (self._epochs * self._rows)
            self._line(f"{share}% done, {self.pace()}")

    def epoch(self, epoch: int, note: str) -> None:
        """Show that the model has finished epoch number `epoch`."""
        if self._progress:
            self._progress.update(
                self._task, epoch=f"{epoch}/{self._epochs}", pace=self.pace(), note=note
            )
        else:
            self._line(f"epoch {epoch}/{self._epochs}, {note}, {self.pace()}")

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.out(text, highlight=False)  # unwrapped, so that scripts can parse lines

    def pace(self) -> str:
        """Return the rows per second since the model began, with validation, and the time left."""
        rate = (self._done - self._first) / max(time.perf_counter() - self._start, 1e-9)
        if not rate:
            return ""
        left = (self._epochs * self._rows - self._done) / rate
        return f"{rate:.0f} rows/s" + (f", {duration(left)} left" if left > 0 else "")

    def _line(self, text: str) -> None:
        self._said = time.perf_counter()
        self.say(f"{self._model}: {text}")


def read(file: Path, size: int | None = None) -> list[dict[str, Any]]:
    """Return the records in a metrics file, or in its first `size` bytes.

    Raises:
        ConfigError: a line is damaged; the message names the file and the line.
    """
    records = files.read_jsonl(file, size) if file.is_file() else []
    for number, record in enumerate(records, 1):
        if not record.keys() >= _KEYS:
            raise ConfigError(f"{file}, line {number}: damaged: not a metrics record; restore it")
    return records


def duration(seconds: float) -> str:
    """Format a duration: 12 s, 3 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
