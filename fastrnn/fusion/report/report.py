"""Write report.html: one self-contained page with a run's configuration and results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from jinja2 import TemplateError

from .. import checkpoint, files
from ..config.inputs import modality_of
from ..config.schema import RunConfig
from ..data.bad_rows import SKIPPED
from ..data.splits import SPLIT
from ..errors import ConfigError
from ..evaluation.evaluator import EVALUATION
from ..explain.explainer import EXPLANATION, PICTURES
from ..plots import metrics as plot
from ..plots import robustness as plot_robustness
from ..strings import number
from ..training import loggers
from . import html

REPORT = "report.html"
_NOT_SCORES = {"model", "epoch", "split", "loss", "seconds"}  # in a line of metrics.jsonl


class Figure(NamedTuple):
    """A PNG file and its caption."""

    path: Path
    caption: str


def write_report(folder: str | Path) -> Path:
    """Write report.html into a run's folder.

    The report covers the configuration and, if they exist, metrics.jsonl, evaluation.json
    (evaluate_run) and explanation.json (explain_run).

    Returns:
        The path of the report. Its pictures are embedded, and also saved in the folder's pictures/.

    Raises:
        ConfigError: the folder is not a run, or one of its files is damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: there is no config.json; give a run's folder")
    config, processor = checkpoint.read_config(folder)
    (folder / PICTURES).mkdir(exist_ok=True)
    values = {
        "title": _title(folder, config),
        "folder": quote(str(folder)),
        "config": config,
        "labels": processor.task.labels,
        "split_sizes": _split_sizes(folder),
        "learning_curves": list(_learning_curves(folder)),
        "commands": _commands(folder, config),
        "trained_models": checkpoint.names(folder),
    }
    evaluation, explanation = _read(folder / EVALUATION), _read(folder / EXPLANATION)
    try:
        values |= _evaluation_values(folder, config, evaluation)
        values |= _explanation_values(folder, explanation)
        page = html.render("report.html", values)
    except (AttributeError, KeyError, TypeError, TemplateError) as error:
        raise ConfigError(
            f"{folder}: {EVALUATION} or {EXPLANATION} is damaged or of another version; delete "
            "them, then run evaluate and explain again"
        ) from error
    path = folder / REPORT
    files.write(path, page)
    return path


def _read(path: Path) -> dict[str, Any] | None:
    return files.read_json(path) if path.is_file() else None


def _title(folder: Path, config: RunConfig) -> str:
    modalities = dict.fromkeys(map(modality_of, config.model.modalities))
    return f"{folder.resolve().name}: {' + '.join(modalities)}, {config.model.problem_type}"


def _split_sizes(folder: Path) -> dict[str, int]:
    """Return the number of rows in each split, without skipped rows."""
    splits = _read(folder / SPLIT) or {}
    skipped = folder / SKIPPED
    records = files.read_jsonl(skipped) if skipped.is_file() else []
    count = Counter(record.get("split") for record in records)
    return {name: len(rows) - count[name] for name, rows in splits.items()}


def _commands(folder: Path, config: RunConfig) -> list[str]:
    """Return the commands that reproduce the run and its report."""
    run, options = quote(str(folder)), folder / "config.yaml"
    commands = [f"fastrnn evaluate {run}", f"fastrnn explain {run}"]
    if not config.manifest or not options.is_file():
        return commands
    table = quote(config.manifest)
    return [f"fastrnn fit {table} --config {quote(str(options))} --output-dir NEW", *commands]


def _learning_curves(folder: Path) -> Iterator[Figure]:
    """Plot training loss and validation score of every model over the epochs."""
    path = folder / checkpoint.METRICS
    if not path.is_file():
        return
    score = "accuracy"
    series: dict[tuple[str, str], dict[str, list[Any]]] = {}  # (split, metric) -> model -> values
    for record in loggers.read(path):
        score = next((key for key in record if key not in _NOT_SCORES), score)
        for metric in ("loss", score):
            by_model = series.setdefault((record["split"], metric), {})
            by_model.setdefault(record["model"], []).append(record.get(metric))
    for split, metric, title in (
        ("train", "loss", "Training loss"),
        ("val", score, f"Validation {html.score_name(score)}"),
    ):
        by_model = series.get((split, metric), {})
        complete = {model: values for model, values in by_model.items() if None not in values}
        if complete:
            picture = folder / PICTURES / f"{split}-{metric}.png"
            plot.learning_curve(picture, complete, title)
            yield Figure(picture, title.lower() + " over the epochs")


def _evaluation_values(
    folder: Path, config: RunConfig, evaluation: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the values of the summary, the results and the robustness."""
    if evaluation is None:
        return {"evaluation": None, "robustness": None}
    comparisons = [_comparison(entry) for entry in evaluation["comparison"]]
    unimodal = [entry for entry in comparisons if entry["model"].endswith(" only")]
    others = [entry for entry in comparisons if entry not in unimodal]
    return {
        "evaluation": evaluation,
        "verdict": _verdict(evaluation, comparisons),
        "comparisons": comparisons,
        "main_comparisons": unimodal[:1] + others[:1],
        "result_figures": list(
            _result_figures(folder / PICTURES, evaluation, config.columns.get("label", "label"))
        ),
        "robustness": _robustness(folder / PICTURES, evaluation),
    }


def _verdict(
    evaluation: Mapping[str, Any], comparisons: Sequence[Mapping[str, str]]
) -> dict[str, str] | None:
    """Return the verdict with the outcome of the comparison with the best other model."""
    if "verdict" not in evaluation:  # of an earlier version
        return None
    outcome = comparisons[0]["outcome"] if comparisons else "inconclusive"
    return {"summary": evaluation["verdict"], "outcome": outcome}


def _comparison(entry: Mapping[str, Any]) -> dict[str, str]:
    low, high = entry["gain"]["low"], entry["gain"]["high"]
    outcome = "inconclusive"
    if low is not None and low > 0:
        outcome = "better"
    elif high is not None and high < 0:
        outcome = "worse"
    return {"model": entry["model"], "summary": entry["summary"], "outcome": outcome}


def _result_figures(pictures: Path, evaluation: Mapping[str, Any], label: str) -> Iterator[Figure]:
    """Plot the score of each model, and what the problem type has of the main model."""
    models, score = evaluation["models"], evaluation["score"]
    main = models[evaluation["main"]]
    name = html.score_name(score)
    path = pictures / "models.png"
    plot.models(path, {model: entry["scores"][score] for model, entry in models.items()}, name)
    yield Figure(path, f"{name} of each model")
    if "points" in main:
        path = pictures / "scatter.png"
        plot.scatter(path, main["points"], label)
        yield Figure(path, "true and predicted values")
    if "confusion" in main and evaluation["problem_type"] != "multilabel":
        path = pictures / "confusion.png"
        plot.confusion(path, main["confusion"], evaluation["labels"])
        yield Figure(path, "confusion matrix; colour: share of the true label's rows")
    if "roc" in main:
        curves = {
            model: {**entry["roc"], "auroc": entry["scores"]["auroc"]["value"]}
            for model, entry in models.items()
            if entry["scores"]["auroc"]["value"] is not None
        }
        path = pictures / "roc.png"
        plot.roc(path, curves)
        yield Figure(path, "receiver operating characteristic")
    if "calibration" in main:
        of_label = evaluation["problem_type"] in ("binary", "multilabel")
        path = pictures / "reliability.png"
        xlabel = "predicted probability" if of_label else "confidence of the prediction"
        plot.reliability(path, main["calibration"]["bins"], xlabel)
        error = number(main["calibration"]["ece"])
        yield Figure(path, f"calibration; expected calibration error {error}")


def _robustness(pictures: Path, evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a table of the changes with strengths, a column for each, and one of the others."""
    records, score = evaluation["robustness"], evaluation["score"]
    if not records:
        return None
    unchanged = evaluation["models"][evaluation["main"]]["scores"][score]["value"]
    graded: dict[tuple[str, str], dict[float, dict[str, Any]]] = {}
    others = []
    for record in records:
        modality, change, strength = (record[key] for key in ("modality", "change", "strength"))
        if strength is None:
            others.append({"modality": modality, "what": change, "cells": [_changed(record)]})
        else:
            graded.setdefault((modality, change), {})[strength] = _changed(record)
    strengths = sorted({strength for each in graded.values() for strength in each})
    rows = [
        {"modality": modality, "what": change, "cells": [cells.get(each) for each in strengths]}
        for (modality, change), cells in graded.items()
    ]
    return {
        "unchanged": unchanged,
        "tables": [
            {"columns": columns, "rows": rows}
            for columns, rows in (([f"{each:g}" for each in strengths], rows), ([score], others))
            if rows
        ],
        "figures": list(_robustness_figures(pictures, records, unchanged, html.score_name(score))),
    }


def _robustness_figures(
    pictures: Path, records: Sequence[Mapping[str, Any]], unchanged: float | None, name: str
) -> Iterator[Figure]:
    graded = [each for each in records if each["strength"] is not None]
    others = [each for each in records if each["strength"] is None]
    if graded:
        path = pictures / "robustness.png"
        plot_robustness.by_strength(path, graded, unchanged, name)
        yield Figure(path, f"{name} on degraded inputs")
    if others:
        path = pictures / "changes.png"
        plot_robustness.others(path, others, unchanged, name)
        yield Figure(path, f"{name} on changed inputs")


def _changed(record: Mapping[str, Any]) -> dict[str, float | None]:
    drop = record["drop"]
    return {"score": record["score"], "change": None if drop is None else -drop}


def _explanation_values(folder: Path, explanation: dict[str, Any] | None) -> dict[str, Any]:
    """Return the values of the explanation."""
    if explanation is None:
        return {"explanation": None}
    return {
        "explanation": explanation,
        "explanation_figures": list(_explanation_figures(folder, explanation)),
        "examples": [_example(folder, example) for example in explanation["examples"]],
    }


def _explanation_figures(folder: Path, explanation: Mapping[str, Any]) -> Iterator[Figure]:
    after = (explanation["swap_state"] or {}).get("after", [])
    if any(step["differ"] for step in after):
        path = folder / PICTURES / "swap.png"
        plot.state_swap(path, after)
        yield Figure(path, "predictions after the states are swapped")
    if explanation["states"]:
        caption = "states of the recurrent layer over the steps of some rows"
        yield Figure(folder / explanation["states"]["picture"], caption)


def _example(folder: Path, example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an explained prediction with the path of its picture and the opacity of its tokens."""
    values = dict(example)
    if "picture" in example:
        values["picture"] = folder / example["picture"]
    if "tokens" in example:
        values["tokens"] = _shaded(example["tokens"])
    return values


def _shaded(tokens: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return tokens with an opacity in proportion to the size of their attribution."""
    attributions = [token["attribution"] or 0.0 for token in tokens]
    largest = max(map(abs, attributions), default=0.0) or 1.0
    return [
        {**token, "attribution": value, "opacity": 0.85 * abs(value) / largest}
        for token, value in zip(tokens, attributions, strict=True)
    ]
