"""The result of a run, and the training of its models one after another.

The weights of each model are saved as soon as it is trained. An interrupted run continues from its
checkpoint, with the model that was in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from .. import checkpoint
from ..config.schema import ModelConfig, RunConfig
from ..data.processor import Examples, Preprocessor
from . import state as resume
from .loggers import METRICS, Log
from .loggers import read as read_metrics
from .state import State
from .trainer import Score, Scores, Trained, train


@dataclass(frozen=True)
class Run:
    """The result of a fit. The first of `trained` is the saved model."""

    folder: Path
    config: RunConfig
    preprocessor: Preprocessor
    examples: Mapping[str, Examples]
    trained: list[Trained]


def train_all(
    run: Run,
    models: Mapping[str, ModelConfig],
    given: Mapping[str, Tensor] | None,
    accelerator: Accelerator,
    console: Console,
    board: Path | None,
) -> None:
    """Train the models that are not finished yet, and add each model to `run.trained` in order."""
    folder, training, main = run.folder, run.config.train, accelerator.is_main_process
    state = resume.load(folder) or resume.State()
    records = read_metrics(folder / METRICS, state.metrics)
    accelerator.wait_for_everyone()  # all processes read the metrics before one truncates them
    with Log(
        folder / METRICS, console, size=state.metrics, main=main, tensorboard=board
    ) as journal:
        for name, model in models.items():
            if name in state.finished:
                run.trained.append(finished(folder, name, records, accelerator))
                continue
            done = tuple(each.name for each in run.trained)

            def save(now: State, done: tuple[str, ...] = done) -> None:
                if main:
                    resume.save(folder, replace(now, finished=done))

            first, started = not done, state.model == name
            result = train(
                name,
                model,
                training if first else replace(training, freeze=()),
                run.examples,
                journal,
                given=given if first else None,
                start=state if started else None,
                epochs=_scores(name, records)[0] if started else (),
                save=save,
            )
            run.trained.append(result)
            if main:
                best = checkpoint.weights(result.model)
                checkpoint.save_network(folder, name, model, best, result.last)
                if first:
                    checkpoint.save(folder, run.config, result.model, run.preprocessor)
            save(State(metrics=journal.size()), (*done, name))
    if main:
        resume.clear(folder)
    accelerator.wait_for_everyone()


def finished(
    folder: Path, name: str, records: Iterable[Mapping[str, Any]], accelerator: Accelerator
) -> Trained:
    """Return a model that an interrupted run had finished."""
    epochs, test, seconds = _scores(name, records)
    model = checkpoint.load_network(folder, name).to(accelerator.device)
    result = Trained(name, model, epochs, seconds=seconds)
    result.final["val"] = epochs[result.best - 1]["val"]
    if test is not None:
        result.final["test"] = test
    return result


def _scores(
    name: str, records: Iterable[Mapping[str, Any]]
) -> tuple[list[Scores], Score | None, float]:
    """Return a model's metrics: its epochs, its score on test rows, its seconds."""
    epochs: list[Scores] = []
    test, seconds = None, 0.0
    for each in records:
        if each["model"] != name:
            continue
        rest = set(each) - {"model", "epoch", "split", "loss", "seconds"}
        score = Score(each["loss"], each[rest.pop()])
        seconds = each["seconds"]
        if each["split"] == "test":
            test = score
        else:
            if each["split"] == "train":
                epochs.append({})
            epochs[-1][each["split"]] = score
    return epochs, test, seconds
