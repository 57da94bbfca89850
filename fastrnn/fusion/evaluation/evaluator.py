"""Evaluate a run: scores of the fusion and its baselines, and robustness to degraded inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint, files
from ..config.schema import ModelConfig, RunConfig
from ..data.processor import IGNORE, Examples
from ..tasks import objectives
from ..tasks.scale import restore
from . import metrics, perturbations
from .metrics import Answers, Interval
from .perturbations import Change
from .run_data import Rows, run_rows

EVALUATION = "evaluation.json"
_BATCH = 256  # rows; no gradients are kept
_MOST_LABELS = 50  # no one can read a larger confusion matrix


@dataclass(frozen=True)
class Evaluation:
    """The predictions and scores of one model on some rows."""

    answers: Answers
    scores: dict[str, Interval]
    threshold: float | None = None  # binary: the best threshold on the validation rows
    at_threshold: dict[str, Interval] = field(default_factory=dict)

    @property
    def main(self) -> Interval:
        """The score by which models are compared."""
        return self.scores[metrics.main_score(self.answers.problem_type)]

    def to_json(self) -> dict[str, Any]:
        """Return everything except the predictions, as plain JSON values."""
        answers = self.answers
        result: dict[str, Any] = {
            "rows": answers.rows,
            "items": len(answers.truth),
            "scores": _json(self.scores),
        }
        if answers.problem_type == "regression":
            result["points"] = _points(answers)
            return result
        result["calibration"] = metrics.calibration(answers)
        if len(answers.labels) <= _MOST_LABELS:
            result["confusion"] = metrics.confusion(answers)
        if answers.problem_type == "binary":
            result["roc"] = metrics.roc(answers)
        if self.threshold is not None:
            result["threshold"] = metrics.plain(self.threshold)
            result["at_threshold"] = _json(self.at_threshold)
        return result


def _json(scores: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: each.to_json() for name, each in scores.items()}


def _points(answers: Answers, most: int = 1000) -> list[list[float | None]]:
    """Return [true value, prediction] of at most `most` items, for a plot."""
    keep = torch.linspace(0, len(answers.truth) - 1, min(most, len(answers.truth))).long()
    pairs = torch.stack([answers.truth, answers.output], dim=1)[keep]
    return [[each if math.isfinite(each) else None for each in pair] for pair in pairs.tolist()]


def answer(
    network: nn.Module,
    config: RunConfig,
    examples: Examples,
    device: torch.device | str = "cpu",
    change: Change | None = None,
) -> Answers:
    """Compute a network's predictions on labelled rows.

    Args:
        network: the network, which is moved to `device` and put in evaluation mode.
        config: the configuration of its run.
        examples: the rows.
        device: the device to run on.
        change: a perturbation of each batch.
    """
    network = network.to(device).eval()
    outputs, truths, rows = [], [], []
    with torch.no_grad():
        for start in range(0, len(examples), _BATCH):
            chosen = range(start, min(start + _BATCH, len(examples)))
            batch = examples.collate(chosen)
            if change is not None:
                batch = change(batch)
            logits = network({name: each.to(device) for name, each in batch.items()})
            output, truth, row = items(config, logits, batch["label"])
            outputs.append(output)
            truths.append(truth)
            rows.append(row + start)
    return Answers(
        config.model.problem_type,
        config.labels,
        torch.cat(outputs),
        torch.cat(truths),
        torch.cat(rows),
        len(examples),
    )


def items(config: RunConfig, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert logits and labels of a batch to the output, truth and row of Answers.

    Steps without a label are dropped. A regression is converted back to the units of its labels.
    """
    problem_type = config.model.problem_type
    output = objectives.answers(problem_type, logits, config.target)
    row = torch.arange(len(label))
    if problem_type == "steps":
        scored = label != IGNORE
        return output[scored], label[scored], row[:, None].expand_as(label)[scored]
    if problem_type == "regression":
        return output, restore(label, config.target), row
    return output, label.long() if problem_type == "multilabel" else label, row


def evaluate(
    network: nn.Module,
    config: RunConfig,
    examples: Examples,
    val: Examples | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Evaluation:
    """Compute every score of a network on `examples`, with bootstrap intervals over rows.

    Args:
        network: the network.
        config: the configuration of its run.
        examples: the labelled rows to evaluate on.
        val: rows to tune a binary model's threshold on; without them it is 0.5.
        device: the device to run on.
        seed: seed of the bootstrap.
    """
    answers = answer(network, config, examples, device)
    result = metrics.intervals(answers, seed)
    if config.model.problem_type != "binary" or val is None:
        return Evaluation(answers, result)
    threshold = metrics.threshold(answer(network, config, val, device))
    tuned = metrics.intervals(answers, seed, threshold)
    at_threshold = {name: tuned[name] for name in ("accuracy", "balanced_accuracy", "f1")}
    return Evaluation(answers, result, threshold, at_threshold)


def evaluate_run(
    folder: str | Path,
    manifest: Any = None,
    split: str = "test",
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **reading: Any,
) -> dict[str, Any]:
    """Evaluate the fusion of a run and its baselines; write evaluation.json to its folder.

    Args:
        folder: the run's folder.
        manifest: rows to evaluate on: a path, a DataFrame or a Manifest. Defaults to the training
            table, restricted to the rows of `split`.
        split: the split to evaluate; val if the training table has no rows of it. Another table
            is evaluated on all rows if it has none of this split.
        device: the device to run on.
        seed: seed of the bootstrap and of the noise.
        reading: keyword arguments of `run_rows`: on_bad_row, workers.

    Returns:
        The content of evaluation.json; see docs/fusion.md.

    Raises:
        FusionError: the folder contains no run, or the manifest cannot be used.
    """
    folder = Path(folder)
    files.check_writable(folder)
    rows = run_rows(folder, manifest, split, **reading)
    networks = {name: checkpoint.load_network(folder, name) for name in checkpoint.names(folder)}
    each = {
        name: evaluate(network, rows.config, rows.examples, rows.val, device, seed)
        for name, network in networks.items()
    }
    main = next(iter(each))
    result = {
        "problem_type": rows.config.model.problem_type,
        "labels": list(rows.config.labels),
        "score": metrics.main_score(rows.config.model.problem_type),
        "split": rows.split,
        "rows": len(rows.examples),
        "manifest": rows.manifest,
        "skipped": rows.skipped,
        "interval": metrics.LEVEL,
        "main": main,
        "models": {
            name: {
                **value.to_json(),
                "parameters": sum(p.numel() for p in networks[name].parameters()),
            }
            for name, value in each.items()
        },
        "comparison": compare(each, main, seed),
        "robustness": robustness(networks[main], rows, each[main], device, seed),
    }
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    files.write(folder / EVALUATION, text + "\n")
    return result


def compare(each: Mapping[str, Evaluation], main: str, seed: int = 0) -> list[dict[str, Any]]:
    """Compare the main model with every other on the same rows, best first, also in words."""
    score = metrics.main_score(each[main].answers.problem_type)
    others = sorted(
        (name for name in each if name != main), key=lambda name: -each[name].main.value
    )
    result = []
    for name in others:
        gain = metrics.difference(each[main].answers, each[name].answers, score, seed)
        values = f"{each[main].main.value:.3f} vs {each[name].main.value:.3f}"
        bounds = f"difference {gain.value:+.3f}, 95% interval {gain.low:+.3f} to {gain.high:+.3f}"
        if gain.low > 0:
            words = f"{main} is better than {name}"
        elif gain.high < 0:
            words = f"{name} is BETTER than {main}"
        else:
            words = f"no significant difference between {main} and {name}"
        result.append(
            {"model": name, "gain": gain.to_json(), "says": f"{words}: {values} ({bounds})"}
        )
    return result


def robustness(
    network: nn.Module,
    rows: Rows,
    whole: Evaluation,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compute the main score with each modality removed, and with increasing noise.

    `less` is the drop of the score. `strength` is the ratio of the standard deviations of noise
    and signal; for text it is the fraction of tokens replaced. It is null if the modality is
    removed.
    """
    config = rows.config
    score = metrics.main_score(config.model.problem_type)

    def judged(modality: str, what: str, strength: float | None, change: Change) -> dict[str, Any]:
        answers = answer(network, config, rows.examples, device, change)
        value = metrics.value(answers, score)
        return {
            "modality": modality,
            "change": what,
            "strength": strength,
            "score": metrics.plain(value),
            "less": metrics.plain(whole.main.value - value),
        }

    result = []
    for modality in config.model.modalities:
        if len(config.model.modalities) > 1:
            result.append(judged(modality, "removed", None, _removing(modality)))
        what = "tokens replaced" if modality == "text" else "noise"
        for strength in perturbations.STRENGTHS:
            change = _noising(modality, strength, seed, config.model)
            result.append(judged(modality, what, strength, change))
    return result


def _removing(modality: str) -> Change:
    return lambda batch: perturbations.remove(batch, modality)


def _noising(modality: str, strength: float, seed: int, config: ModelConfig) -> Change:
    generator = torch.Generator().manual_seed(seed)
    return lambda batch: perturbations.noise(
        batch, modality, strength, generator, config.vocabulary
    )
