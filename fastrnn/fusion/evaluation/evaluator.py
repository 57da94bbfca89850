"""Evaluate a network, or a run: the scores of the fusion and its baselines, compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import checkpoint, files
from ..config.schema import BATCH_SIZE
from ..data.dataset import FusionDataset
from ..errors import ConfigError
from ..inference import outputs
from ..inference.loop import InferenceConfig, find_device, predictions
from ..inference.outputs import Baseline
from ..tasks import Predictions
from ..tasks.curves import safe_threshold
from ..tasks.metrics import plain
from .bootstrap import LEVEL, Interval, difference, intervals
from .robustness import robustness
from .run_data import RunRows, run_rows
from .verdict import verdict

EVALUATION = "evaluation.json"
_AT_THRESHOLD = ("accuracy", "balanced_accuracy", "f1")


@dataclass(frozen=True)
class Evaluation:
    """The predictions and scores of one model on some rows."""

    predictions: Predictions
    scores: dict[str, Interval]
    threshold: float | None = None  # binary: the one tuned on the validation rows
    at_threshold: dict[str, Interval] = field(default_factory=dict)

    @property
    def main(self) -> Interval:
        """The score by which models are compared."""
        return self.scores[self.predictions.task.score_name]

    def to_json(self) -> dict[str, Any]:
        """Return everything except the predictions, as plain JSON values."""
        found = self.predictions
        result: dict[str, Any] = {
            "rows": found.rows,
            "items": len(found.truth),
            "scores": _json(self.scores),
            **found.task.details(found),
        }
        if self.threshold is not None:
            result["threshold"] = plain(self.threshold)
            result["at_threshold"] = _json(self.at_threshold)
        return result


def _json(scores: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: each.to_json() for name, each in scores.items()}


def evaluate(
    network: nn.Module,
    dataset: FusionDataset,
    val: FusionDataset | None = None,
    inference: InferenceConfig | None = None,
    seed: int = 0,
    threshold: float | None = None,
) -> Evaluation:
    """Compute every score of a network on `dataset`, with bootstrap intervals over rows.

    Args:
        network: the network; it runs on its own device.
        dataset: the labelled rows to evaluate on.
        val: rows to tune a binary model's threshold on; without them it is 0.5.
        inference: the batch size, and the processes that decode files.
        seed: seed of the bootstrap.
        threshold: the threshold that is tuned on `val`, if it is known.
    """
    found = predictions(network, dataset, inference)
    if not found.task.has_threshold or val is None:
        return assess(found, None, seed)
    if threshold is None:
        tuned = predictions(network, val, inference)
        threshold = safe_threshold(tuned.output, tuned.truth)
    return assess(found, threshold, seed)


def assess(found: Predictions, threshold: float | None = None, seed: int = 0) -> Evaluation:
    """Compute every score of some predictions, with bootstrap intervals over rows.

    Args:
        threshold: another threshold than 0.5 to judge a binary model at.
        seed: seed of the bootstrap.
    """
    scores = intervals(found, seed)
    if threshold is None:
        return Evaluation(found, scores)
    tuned = intervals(found, seed, threshold)
    return Evaluation(found, scores, threshold, {name: tuned[name] for name in _AT_THRESHOLD})


def evaluate_run(
    folder: str | Path,
    manifest: Any = None,
    split: str = "test",
    *,
    device: torch.device | str | None = "cpu",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_bad_row: str | None = None,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Evaluate the fusion of a run and its baselines; write evaluation.json to its folder.

    Args:
        folder: the run's folder.
        manifest: rows to evaluate on: a table or a Manifest. Defaults to the training table,
            restricted to the rows of `split`.
        split: the split to evaluate; val if the training table has no rows of it. Another table
            is evaluated on all rows if it has none of this split.
        device: the device to run on; "auto" for a GPU if there is one.
        seed: seed of the bootstrap and of the noise.
        batch_size: rows of one forward pass.
        on_bad_row, num_workers: as for `run_rows`.

    Returns:
        The content of evaluation.json; see docs/fusion.md.

    Raises:
        FusionError: the folder contains no run, or the manifest cannot be used.
    """
    folder, device = Path(folder), find_device(device)
    files.check_writable(folder)
    rows = run_rows(folder, manifest, split, on_bad_row=on_bad_row, num_workers=num_workers)
    inference = InferenceConfig(batch_size, num_workers)
    names = checkpoint.names(folder)
    networks = {name: checkpoint.load_network(folder, name).to(device) for name in names}
    main, task = names[0], rows.processor.task
    used = {main: rows.config.threshold}  # by predict
    each = {
        name: evaluate(network, rows.dataset, rows.val, inference, seed, used.get(name))
        for name, network in networks.items()
    }
    baselines = outputs.load(folder)
    each |= _assessed(baselines, rows, seed)
    costs = _costs(folder, networks, baselines)
    result: dict[str, Any] = {
        "problem_type": task.problem_type,
        "labels": list(task.labels),
        "score": task.score_name,
        "split": rows.split,
        "rows": len(rows.dataset),
        "manifest": rows.manifest,
        "skipped": rows.skipped,
        "interval": LEVEL,
        "main": main,
        "models": {name: {**value.to_json(), **costs[name]} for name, value in each.items()},
        "left_out": [baseline.name for baseline in baselines if baseline.name not in each],
        "comparison": compare(each, main, seed),
        "robustness": robustness(
            networks[main], rows.config.model, rows.dataset, each[main].main.value, inference, seed
        ),
    }
    result["verdict"] = verdict(result)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    files.write(folder / EVALUATION, text + "\n")
    return result


def _assessed(baselines: Iterable[Baseline], rows: RunRows, seed: int) -> dict[str, Evaluation]:
    """Return the scores of the baselines whose outputs for these rows are saved."""
    found = {}
    for each in baselines:
        predicted = each.predictions(rows.dataset, rows.split) if rows.own else None
        if predicted is not None:
            val = None if rows.val is None else each.predictions(rows.val, "val")
            threshold = None if val is None else safe_threshold(val.output, val.truth)
            found[each.name] = assess(predicted, threshold, seed)
    return found


def _costs(
    folder: Path, networks: Mapping[str, nn.Module], baselines: Iterable[Baseline]
) -> dict[str, dict[str, float | None]]:
    """Return the number of parameters and the seconds of training of each model.

    A baseline that reads the features of the main network, the first one, needs its parameters.
    """
    seconds = _seconds(folder / checkpoint.METRICS)
    found: dict[str, dict[str, float | None]] = {}
    for name, network in networks.items():
        count = sum(each.numel() for each in network.parameters())
        found[name] = {"parameters": count, "seconds": seconds.get(name)}
    main = next(iter(found.values()))["parameters"]
    for each in baselines:
        parameters = main if each.config.network else None
        found[each.name] = {"parameters": parameters, "seconds": plain(each.config.seconds)}
    return found


def _seconds(path: Path) -> dict[str, float]:
    """Return the seconds of training of each network; {} without usable metrics.

    An evaluation does not need the metrics; the report says where they are damaged.
    """
    try:
        records = files.read_jsonl(path)
        return {str(record["model"]): float(record["seconds"]) for record in records}
    except (ConfigError, KeyError, TypeError, ValueError):
        return {}


def compare(each: Mapping[str, Evaluation], main: str, seed: int = 0) -> list[dict[str, Any]]:
    """Compare the main model with every other on the same rows, best first, also in words."""
    score = each[main].predictions.task.score_name
    others = sorted(
        (name for name in each if name != main), key=lambda name: -each[name].main.value
    )
    result = []
    for name in others:
        gain = difference(each[main].predictions, each[name].predictions, score, seed)
        values = f"{each[main].main.value:.3f} vs {each[name].main.value:.3f}"
        bounds = f"difference {gain.value:+.3f}, 95% interval {gain.low:+.3f} to {gain.high:+.3f}"
        if gain.low > 0:
            words = f"{main} is better than {name}"
        elif gain.high < 0:
            words = f"{name} is BETTER than {main}"
        else:
            words = f"no significant difference between {main} and {name}"
        summary = f"{words}: {values} ({bounds})"
        result.append({"model": name, "gain": gain.to_json(), "summary": summary})
    return result
