"""Write report.html: one self-contained page with a run's configuration and results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import checkpoint, files
from ..config.schema import RunConfig
from ..errors import ConfigError
from ..evaluation.evaluator import EVALUATION
from ..explain.explainer import EXPLANATION, PICTURES
from ..plots import metrics as plot
from ..strings import plural
from ..training import loggers as log
from . import html
from .html import Html, figures, join, lead, number, section, table

REPORT = "report.html"
_METRICS = "metrics.jsonl"
_NAMES = {
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "exact_match": "exact match",
    "f1": "F1",
    "f1_micro": "micro F1",
    "log_loss": "log loss",
    "mae": "MAE",
    "r2": "R²",
    "rmse": "RMSE",
}


def write_report(folder: str | Path) -> Path:
    """Write report.html into a run's folder.

    The report covers the configuration and, if they exist, metrics.jsonl, evaluation.json
    (evaluate_run) and explanation.json (explain_run).

    Returns:
        The path of the report. Its pictures are embedded, and also saved in the folder's pictures/.

    Raises:
        ConfigError: the folder is not a run.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: there is no config.json; give a run's folder")
    config = checkpoint.read_config(folder)
    evaluation, explanation = (_read(folder / name) for name in (EVALUATION, EXPLANATION))
    (folder / PICTURES).mkdir(exist_ok=True)
    sections = [
        _summary(config, evaluation),
        _run(folder, config, evaluation),
        _results(folder, evaluation) if evaluation else _missing("evaluate", folder),
        _learning(folder),
        _worse(folder, evaluation) if evaluation else Html(""),
        _why(folder, explanation) if explanation else _missing("explain", folder),
        _again(folder, config),
    ]
    name = folder.resolve().name
    title = f"{name}: {' and '.join(config.model.modalities)}, {config.model.problem_type}"
    path = folder / REPORT
    files.write(path, html.whole(title, join(sections)))
    return path


def _read(path: Path) -> dict[str, Any] | None:
    return files.read_json(path) if path.is_file() else None


def _missing(command: str, folder: Path) -> Html:
    words = "Results" if command == "evaluate" else "Explanation"
    return section(words, lead(f"Not available yet; run: fastrnn {command} {folder}"))


def _summary(config: RunConfig, evaluation: dict[str, Any] | None) -> Html:
    """Return the summary: the main score, and the most important comparisons."""
    if evaluation is None:
        return Html("")
    main = evaluation["models"][evaluation["main"]]
    score = main["scores"][evaluation["score"]]
    name = _NAMES[evaluation["score"]]
    words = (
        f"{name} of {evaluation['main']} on {plural(evaluation['rows'], 'row')} "
        f"({evaluation['split']}); "
        f"95% interval {number(score['low'])} to {number(score['high'])}"
    )
    parts = [html.headline(number(score["value"]), words)]
    single = [each for each in evaluation["comparison"] if each["model"].endswith(" only")]
    for each in single[:1]:
        parts.append(html.verdict(each["summary"], each["gain"]["low"]))
    others = [each for each in evaluation["comparison"] if each not in single]
    for each in others[:1]:
        parts.append(html.verdict(each["summary"], each["gain"]["low"]))
    return html.block(join(parts))


def _run(folder: Path, config: RunConfig, evaluation: dict[str, Any] | None) -> Html:
    model, train = config.model, config.train
    rows: list[tuple[Any, ...]] = [
        ("manifest", config.manifest or "unknown"),
        ("columns", ", ".join(f"{role} = {name}" for role, name in config.columns.items())),
    ]
    parts = _read(folder / "split.json")
    if parts:
        skipped = folder / "skipped.jsonl"
        listed = files.read_jsonl(skipped) if skipped.is_file() else []
        out = Counter(each.get("split") for each in listed)
        sizes = {name: len(each) - out[name] for name, each in parts.items()}
        rows.append(("split", ", ".join(f"{size:,} {name}" for name, size in sizes.items())))
    rows.append(("labels", f"{model.problem_type}: {_labels(config)}"))
    if evaluation and evaluation["skipped"]:
        rows.append(
            ("skipped", f"{plural(len(evaluation['skipped']), 'row')} that could not be used")
        )
    rows.append(("modalities", ", ".join(model.modalities)))
    shape = f"{model.fusion}, width {model.width}, cell {model.cell}, hidden size {model.hidden}"
    rows.append(("fusion", shape))
    if evaluation:
        size = evaluation["models"][evaluation["main"]]["parameters"]
        rows.append(("parameters", f"{size:,}"))
    rows.append(
        (
            "training",
            f"{plural(train.epochs, 'epoch')}, batch size {train.batch_size}, learning rate "
            f"{train.learning_rate:g} ({train.schedule}), seed {train.seed}, {train.precision}",
        )
    )
    return section("Run", table(None, rows, kind="facts"))


def _labels(config: RunConfig) -> str:
    if config.model.problem_type == "regression":
        return "a number"
    names = ", ".join(config.labels[:12])
    return names if len(config.labels) <= 12 else f"{names}, … ({len(config.labels)} labels)"


def _results(folder: Path, evaluation: dict[str, Any]) -> Html:
    models, main = evaluation["models"], evaluation["main"]
    names = list(models[main]["scores"])
    head = ["model", *(_NAMES[name] for name in names), "parameters"]
    body = []
    for model, entry in models.items():
        scores = [entry["scores"][name] for name in names]
        body.append(
            [model, *(html.interval(score) for score in scores), f"{entry['parameters']:,}"]
        )
    about = (
        f"Scores on {plural(evaluation['rows'], 'row')} ({evaluation['split']}). Small print shows "
        "the 95% interval of a bootstrap over rows."
    )
    score = evaluation["score"]
    picture = folder / PICTURES / "models.png"
    values = {name: entry["scores"][score] for name, entry in models.items()}
    plot.models(picture, values, _NAMES[score])
    parts = [lead(about), table(head, body, kind="results")]
    says = [html.verdict(each["summary"], each["gain"]["low"]) for each in evaluation["comparison"]]
    if says:
        parts += [html.heading("Fusion compared with the other models"), join(says)]
    tuned = _threshold(models[main])
    drawn = [(picture, f"{_NAMES[score]} of each model")]
    drawn += list(_drawn(folder, evaluation))
    return section("Results", join([*parts, tuned, figures(drawn)]))


def _threshold(entry: Mapping[str, Any]) -> Html:
    if "threshold" not in entry:
        return Html("")
    head = ["threshold", *(_NAMES[name] for name in entry["at_threshold"])]
    rows = [
        ["0.5", *(html.interval(entry["scores"][name]) for name in entry["at_threshold"])],
        [
            f"{number(entry['threshold'])}, tuned on val",
            *(html.interval(each) for each in entry["at_threshold"].values()),
        ],
    ]
    return join([html.heading("Decision threshold"), table(head, rows)])


def _drawn(folder: Path, evaluation: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    entry = evaluation["models"][evaluation["main"]]
    place = folder / PICTURES
    if "points" in entry:
        plot.scatter(place / "scatter.png", entry["points"])
        yield place / "scatter.png", "true and predicted values"
    if "confusion" in entry and evaluation["problem_type"] != "multilabel":
        plot.confusion(place / "confusion.png", entry["confusion"], evaluation["labels"])
        yield place / "confusion.png", "confusion matrix: predicted labels by true label"
    if "roc" in entry:
        curves = {
            name: {**each["roc"], "auroc": each["scores"]["auroc"]["value"]}
            for name, each in evaluation["models"].items()
            if each["scores"]["auroc"]["value"] is not None
        }
        plot.roc(place / "roc.png", curves)
        yield place / "roc.png", "receiver operating characteristic"
    if "calibration" in entry:
        found = entry["calibration"]
        second = evaluation["problem_type"] in ("binary", "multilabel")
        name = "predicted probability" if second else "confidence of the prediction"
        plot.reliability(place / "reliability.png", found["bins"], name)
        error = number(found["ece"])
        yield place / "reliability.png", f"calibration; expected calibration error {error}"


def _learning(folder: Path) -> Html:
    series: dict[tuple[str, str], dict[str, list[Any]]] = {}
    score = "accuracy"
    if not (folder / _METRICS).is_file():
        return Html("")
    for record in log.read(folder / _METRICS):
        known = {"model", "epoch", "split", "loss", "seconds"}
        score = next((name for name in record if name not in known), score)
        for name in ("loss", score):
            kept = series.setdefault((record["split"], name), {})
            kept.setdefault(record["model"], []).append(record.get(name))
    drawn = []
    for split, name, title in (
        ("train", "loss", "Training loss"),
        ("val", score, f"Validation {_NAMES.get(score, score)}"),
    ):
        found = series.get((split, name), {})
        found = {key: values for key, values in found.items() if None not in values}
        if found:
            picture = folder / PICTURES / f"{split}-{name}.png"
            plot.learning_curve(picture, found, title)
            drawn.append((picture, title.lower() + " over the epochs"))
    return section("Learning curves", figures(drawn)) if drawn else Html("")


def _worse(folder: Path, evaluation: dict[str, Any]) -> Html:
    found = evaluation["robustness"]
    if not found:
        return Html("")
    score = evaluation["score"]
    whole = evaluation["models"][evaluation["main"]]["scores"][score]["value"]
    columns = list(dict.fromkeys(each["strength"] for each in found if each["strength"]))
    kinds = [*columns, *([None] if any(each["strength"] is None for each in found) else [])]
    by_name: dict[str, dict[float | None, Mapping[str, Any]]] = {}
    for each in found:
        by_name.setdefault(each["modality"], {})[each["strength"]] = each
    rows = []
    for name, own in by_name.items():
        cells = [html.changed(own[kind]["score"], own[kind]["drop"]) for kind in kinds]
        rows.append([f"{name}, {own[columns[0]]['change']}", number(whole), *cells])
    head = [
        "",
        "unchanged",
        *(f"{each:g}" for each in columns),
        *(["removed"] if None in kinds else []),
    ]
    picture = folder / PICTURES / "robustness.png"
    plot.robustness(picture, found, whole, _NAMES[score])
    about = (
        "Small print shows the change. Noise is Gaussian; its strength is the ratio of its "
        "standard deviation to the signal's. For text, the strength is the share of replaced "
        "tokens. Removed: no row has the modality."
    )
    body = join([lead(about), table(head, rows), figures([(picture, "score on degraded inputs")])])
    return section("Robustness", body)


def _why(folder: Path, explanation: dict[str, Any]) -> Html:
    score = _NAMES[explanation["score"]]
    parts = [html.heading("Ablation of modalities")]
    head = ["modality", "unchanged", "from other rows", "removed", "alone"]
    names = ("unchanged", "shuffled", "removed", "alone")
    rows = [
        [each["modality"], *(number(each.get(name)) for name in names)]
        for each in explanation["ablation"]
    ]
    parts += [lead(f"The {score} with each modality taken from other rows, removed, or alone."),
              table(head, rows)]  # fmt: skip
    emap = explanation["emap"]
    if emap:
        parts += [html.heading("Interaction of modalities"), lead(_fused(emap, score))]
    drawn = []
    if explanation["swap_modality"]:
        words = (
            "One modality is taken from another row that has a different prediction. The table "
            "shows how often the new prediction is the other row's, and how often it stays."
        )
        head = ["swapped modality", "pairs", "other row's prediction", "own prediction"]
        rows = [
            [each["modality"], f"{each['differ']:,}", number(each["donor"]), number(each["host"])]
            for each in explanation["swap_modality"]
        ]
        parts += [html.heading("Swapped modalities"), lead(words), table(head, rows)]
    state = explanation["swap_state"]
    if state:
        parts += [html.heading("Swapped states"), lead(_state(state, score))]
        if "after" in state and any(each["differ"] for each in state["after"]):
            picture = folder / PICTURES / "swap.png"
            plot.state_swap(picture, state["after"])
            drawn.append((picture, "predictions after the states are swapped"))
    if explanation["states"]:
        about = "states of the recurrent layer over the steps of some rows; red 1, blue −1"
        drawn.append((folder / explanation["states"]["picture"], about))
    parts += [figures(drawn), html.heading("Individual predictions")]
    about = (
        "Integrated gradients: the contribution of each part of the input to the logit of the "
        "predicted label. Red parts support the prediction, blue parts oppose it."
    )
    parts += [lead(about), html.cards(_card(folder, each) for each in explanation["examples"])]
    return section("Explanation", join(parts))


def _fused(emap: Mapping[str, Any], score: str) -> str:
    words = (
        f"On {plural(emap['rows'], 'row')} the {score} of the model is {number(emap['score'])}. "
        "Its additive projection (EMAP), the nearest sum of functions of one modality each, "
        f"reaches {number(emap['additive'])}"
    )
    low = emap["gain"]["low"]
    if low is not None and low > 0:
        return f"{words}. The difference comes from the interaction of the modalities."
    return f"{words}. The interaction of the modalities shows no significant gain on these rows."


def _state(state: Mapping[str, Any], score: str) -> str:
    words = f"The state is replaced after step {state['step']} in {plural(state['rows'], 'row')}. "
    if "after" in state:
        first = next((each for each in state["after"] if each["differ"]), None)
        if first:
            words += (
                f"With another row's state, {number(first['donor'])} of the predictions at the "
                "next step are the other row's last one before the swap, where the two differ. "
            )
    elif state["differ"]:
        words += (
            f"With another row's state, {number(state['donor'])} of the predictions become the "
            "other row's, where the two differ. "
        )
    return words + (
        f"With a state of zeros, the {score} from there on is {number(state['score_erased'])} "
        f"instead of {number(state['score'])}."
    )


def _card(folder: Path, each: Mapping[str, Any]) -> Html:
    right = each["truth"] == each["answer"]
    told = f"predicted {each['answer']}, actual {each['truth']}"
    if each.get("probability") is not None:
        told += f", probability {number(each['probability'])}"
    if "step" in each:
        told += f", at step {each['step']}"
    if "explained" in each:
        told += f"; explained label: {each['explained']}"
    parts = [html.card_title(each["where"], told, right)]
    if "tokens" in each:
        parts.append(html.tokens(each["tokens"]))
    if "picture" in each:
        parts.append(html.picture(folder / each["picture"], "attribution of the prediction"))
    return join(parts)


def _again(folder: Path, config: RunConfig) -> Html:
    lines = []
    if (folder / "config.yaml").is_file() and config.manifest:
        lines.append(f"fastrnn fit {config.manifest} --config {folder / 'config.yaml'} --out NEW")
    elif config.manifest:
        lines.append(f"fastrnn fit {config.manifest} --seed {config.train.seed} --out NEW")
    lines += [f"fastrnn evaluate {folder}", f"fastrnn explain {folder}"]
    models = ", ".join(checkpoint.names(folder))
    files = (
        "config.json holds every option, model.safetensors the weights, and metrics.jsonl the "
        "metrics of each epoch"
    )
    if models:
        files += f"; models/ holds every trained model: {models}"
    return section("Reproduce this run", join([html.code("\n".join(lines)), lead(files + ".")]))
