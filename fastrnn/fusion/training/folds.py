"""Cross-validation: each fold of the rows tests networks that are trained on the other folds.

Each fold is a run in the folder fold-1, fold-2, ... of a run's folder. The scores of all folds are
in its cross_validation.json: how much a score depends on the rows that happen to test it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from rich.console import Console

from .. import files
from ..config.schema import FitConfig
from ..data.splits import SPLIT
from ..inference import outputs
from ..tasks.metrics import plain
from .baselines import Run

CROSS_VALIDATION = "cross_validation.json"


def fold(number: int) -> str:
    """Return the name of a fold's folder; numbers start at 1."""
    return f"fold-{number}"


def cross_validate(
    splits: Sequence[Mapping[str, Sequence[int]]],
    folder: Path,
    config: FitConfig,
    fit: Callable[[Path, FitConfig], Run],
    accelerator: Accelerator,
    console: Console,
) -> dict[str, Any]:
    """Train on the folds of a manifest, and write cross_validation.json to `folder`.

    Args:
        splits: for each fold, the rows of train, val and test; see splits.fold_rows.
        folder: the folder of the run, which exists.
        config: the options of the run.
        fit: trains a fold in a folder, whose split.json has its rows. If the folder has a run, it
            resumes that run, or returns its result if it is complete.

    Returns:
        The content of cross_validation.json: {"folds": 5, "score": "accuracy", "models": {"fusion":
        {"scores": [...], "mean": ..., "std": ...}, ...}}, with the sample's standard deviation.

    Raises:
        FusionError: as `fit`.
    """
    main = accelerator.is_main_process
    alone = replace(config, folds=0, report_to=())
    score, scores = "", dict[str, list[float]]()
    for number, parts in enumerate(splits, 1):
        place = folder / fold(number)
        if main:
            place.mkdir(exist_ok=True)
            files.write_json(place / SPLIT, parts)
        accelerator.wait_for_everyone()  # before any process reads the split
        console.out(f"Fold {number} of {len(splits)}:")
        run = fit(place, alone)
        score = run.processor.task.score_name
        for each in run.trained:
            scores.setdefault(each.name, []).append(each.final["test"].score)
        for other in run.classical:
            predicted = other.predictions(run.datasets["test"], "test")
            if predicted is not None:
                scores.setdefault(other.name, []).append(outputs.score(predicted))
    models = {
        name: {
            "scores": [plain(each) for each in values],
            "mean": plain(float(np.mean(values))),
            "std": plain(float(np.std(values, ddof=1))),
        }
        for name, values in scores.items()
    }
    found = {"folds": len(splits), "score": score, "models": models}
    if main:
        files.write_json(folder / CROSS_VALIDATION, found)
    return found
