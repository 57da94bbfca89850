"""A small training on images and texts, which a test can stop, and the content of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastrnn.fusion import Callback, DataConfig, FitConfig, Run, TrainConfig, fit, read_manifest
from fastrnn.fusion.training import state as resume

DATA = DataConfig(image_size=8, vocabulary=256)
OPTIONS = {"width": 16, "hidden": 16, "conv": (4, 8), "grid": 2}
# Saved after every step, so that a kill can hit every stage of an epoch and of a save.
TRAINING = TrainConfig(epochs=2, batch_size=6, gradient_accumulation_steps=2, save_every=1e-9)
QUIET = Console(quiet=True)


@pytest.fixture
def manifest(rows: list[dict[str, Any]], save: Callable[..., Path]) -> Path:
    """Write a manifest of twenty images and texts, 16 of them for training."""
    return save([{name: row[name] for name in ("image", "text", "label")} for row in rows])


def quick(
    manifest: Path,
    folder: Path,
    training: TrainConfig = TRAINING,
    options: dict[str, Any] = OPTIONS,
    *,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    **others: Any,
) -> Run:
    """Train one network; `others` are fields of FitConfig."""
    config = FitConfig(DATA, options, training, baselines=False, **others)
    table = read_manifest(manifest)
    return fit(table, folder, config, resume=resume, console=QUIET, callbacks=callbacks)


def content(folder: Path) -> dict[str, object]:
    """Return the content of every file; metrics and baselines without their seconds."""
    found: dict[str, object] = {}
    for each in sorted(folder.rglob("*")):
        if each.name == "metrics.jsonl":
            lines = [json.loads(line) for line in each.read_text().splitlines()]
            assert all(line.pop("seconds") >= 0 for line in lines)
            found[each.name] = lines
        elif each.name == "baseline.json":
            about = json.loads(each.read_text())
            assert about.pop("seconds") >= 0
            found[each.relative_to(folder).as_posix()] = about
        elif each.is_file():
            found[each.relative_to(folder).as_posix()] = each.read_bytes()
    return found


class Stopped(Exception):
    pass


@contextmanager
def stopped_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Stop the training after the `number`th save of a state."""
    save, count = resume.save, 0

    def stopping(folder: Path, state: resume.State) -> None:
        nonlocal count
        count += 1
        save(folder, state)
        if count == number:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", stopping)
        with pytest.raises(Stopped):
            yield
