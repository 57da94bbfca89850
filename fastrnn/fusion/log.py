"""What a run tells: progress on a terminal or plain lines elsewhere, and always metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Log:
    """A context in which models are trained. Each record is one line of `file`."""

    def __init__(self, file: Path, console: Console | None = None) -> None:
        self.console = console or Console()
        self._file = file.open("a", encoding="utf-8")
        self._progress: Progress | None = None
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
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
        self._file.close()

    def record(self, **values: Any) -> None:
        """Append one JSON object to the metrics."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def epoch(self, model: str, epoch: int, epochs: int, note: str) -> None:
        """Show that a model has finished so many of its epochs; 0 announces it."""
        if self._progress is None:
            if epoch:
                self.console.print(f"{model}: epoch {epoch}/{epochs}, {note}", highlight=False)
            return
        for task in self._progress.tasks:
            if task.description == model:
                self._progress.update(task.id, completed=epoch, note=note)
                return
        self._progress.add_task(model, total=epochs, note=note)
