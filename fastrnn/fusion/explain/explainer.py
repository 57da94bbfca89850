"""Explain a run: the contribution of each modality, their interactions, the content of the state,
and attributions of single predictions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint, files
from ..data.processor import IGNORE, Batch
from ..evaluation import metrics, perturbations
from ..evaluation.evaluator import answer
from ..evaluation.run_data import Rows, run_rows
from ..models.network import FusionNetwork
from ..plots import attributions as saliency
from ..tasks.scale import restore, written
from . import attribution, interventions

EXPLANATION = "explanation.json"
PICTURES = "pictures"
_PROBED = 512  # rows among which states and modalities are swapped


def explain_run(
    folder: str | Path,
    manifest: Any = None,
    split: str = "test",
    *,
    examples: int = 6,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **reading: Any,
) -> dict[str, Any]:
    """Explain a run's main network; write explanation.json and pictures/ to its folder.

    Args:
        folder: the run's folder.
        manifest, split, reading: as for `evaluate_run`.
        examples: number of rows to explain individually; half of them are predicted wrongly, if
            there are enough.
        device: the device to run on.
        seed: seed of every random choice.

    Returns:
        The content of explanation.json; see docs/fusion.md.

    Raises:
        FusionError: the folder contains no run, or the manifest cannot be used.
    """
    folder = Path(folder)
    files.check_writable(folder)
    rows = run_rows(folder, manifest, split, **reading)
    name = checkpoint.names(folder)[0]
    network = checkpoint.load_network(folder, name).to(device).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(rows.examples), generator=generator)[:_PROBED].tolist()
    batch = _to(rows.examples.collate(some), device)
    config = rows.config
    several = len(config.model.modalities) > 1
    result: dict[str, Any] = {
        "model": name,
        "problem_type": config.model.problem_type,
        "score": metrics.main_score(config.model.problem_type),
        "split": rows.split,
        "rows": len(rows.examples),
        "skipped": rows.skipped,
        "ablation": ablation(network, rows, device, seed),
        "swap_modality": interventions.swap_modalities(network, config, batch, seed)
        if several
        else [],
        "emap": None,
        "swap_state": None,
        "states": None,
    }
    (folder / PICTURES).mkdir(exist_ok=True)
    result["examples"] = [
        explain_row(network, rows, row, device, folder, number)
        for number, row in enumerate(choose(network, rows, examples, device, seed), 1)
    ]
    if isinstance(network, FusionNetwork):  # late fusion has no state, and is additive
        if several:
            result["emap"] = interventions.emap(network, config, rows.examples, seed=seed)
        result["swap_state"] = interventions.swap_state(network, config, batch, seed)
        if examples:
            result["states"] = _states(network, rows, device, folder, examples, seed)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    files.write(folder / EXPLANATION, text + "\n")
    return result


def ablation(
    network: nn.Module, rows: Rows, device: torch.device | str = "cpu", seed: int = 0
) -> list[dict[str, Any]]:
    """Compute the main score without each modality, with it alone, and with it shuffled.

    `shuffled` takes the modality from other rows. It is the most informative, since each input
    remains realistic and only the combination is wrong.
    """
    modalities = rows.config.model.modalities
    score = metrics.main_score(rows.config.model.problem_type)
    generator = torch.Generator().manual_seed(seed)

    def judged(change: perturbations.Change | None) -> float | None:
        answers = answer(network, rows.config, rows.examples, device, change)
        return metrics.plain(metrics.value(answers, score))

    def without(*names: str) -> perturbations.Change:
        def change(batch: Batch) -> Batch:
            for name in names:
                batch = perturbations.remove(batch, name)
            return batch

        return change

    def shuffled(name: str) -> perturbations.Change:
        return lambda batch: perturbations.donate(
            batch, name, interventions.donors(batch, generator)
        )

    result = []
    whole = judged(None)
    for name in modalities:
        entry: dict[str, Any] = {
            "modality": name,
            "whole": whole,
            "shuffled": judged(shuffled(name)),
        }
        if len(modalities) > 1:
            entry["removed"] = judged(without(name))
            entry["alone"] = judged(without(*(other for other in modalities if other != name)))
        result.append(entry)
    return result


def choose(
    network: nn.Module, rows: Rows, count: int, device: torch.device | str, seed: int
) -> list[int]:
    """Choose random rows, half of them predicted wrongly if there are enough; regression: any."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows.examples), generator=generator).tolist()
    if rows.config.model.problem_type == "regression":
        return sorted(order[:count])
    answers = answer(network, rows.config, rows.examples, device)
    same = answers.predicted == answers.truth
    missed = answers.row[~(same if same.dim() == 1 else same.all(1))]
    wrong = set(missed.tolist())
    bad = [row for row in order if row in wrong]
    good = [row for row in order if row not in wrong]
    share = min(len(bad), max(count // 2, count - len(good)))
    return sorted(good[: count - share]) + sorted(bad[:share])


def explain_row(
    network: nn.Module,
    rows: Rows,
    row: int,
    device: torch.device | str,
    folder: Path,
    number: int,
) -> dict[str, Any]:
    """Explain one prediction; its picture is pictures/example-NUMBER.png."""
    config = rows.config
    batch = _to(rows.examples.collate([row]), device)
    with torch.no_grad():
        logits = network(batch)
    judge, result = _judge(rows, logits, batch["label"])
    result = {"where": rows.where[row], **result}
    if isinstance(network, FusionNetwork):
        found = attribution.over_steps(network, batch, judge)
        names = network.step_names(batch)
        result["steps"] = _shares(names, found)
    inputs: dict[str, Tensor] = {}
    for modality in config.model.modalities:
        if not bool(batch.get(f"{modality}_present", torch.ones(1)).all()):
            continue
        if modality == "text" and attribution.embedding(network) is None:
            continue
        inputs[modality] = attribution.over_input(network, batch, modality, judge).cpu()
    if "text" in inputs:
        result["tokens"] = _shares(_tokens(rows, batch["text"][0]), inputs["text"])
    result["modalities"] = {
        name: metrics.plain(float(value.sum())) for name, value in inputs.items()
    }
    picture = folder / PICTURES / f"example-{number}.png"
    drawn = {name: value for name, value in inputs.items() if name != "text"}
    host = {name: value.cpu() for name, value in batch.items()}
    if drawn and saliency.example(picture, host, drawn, result.get("steps", [])):
        result["picture"] = f"{PICTURES}/{picture.name}"
    return result


def _judge(rows: Rows, logits: Tensor, label: Tensor) -> tuple[attribution.Judge, dict[str, Any]]:
    """Return the function that selects the logit to explain, and a description of the prediction.

    It is the logit of the predicted label. Kind "steps": of the last step with a label.
    Multilabel: of the most probable label.
    """
    config, problem_type = rows.config, rows.config.model.problem_type
    names = config.labels
    description: dict[str, Any]
    if problem_type == "regression":
        scale = config.target
        description = {
            "truth": written(float(restore(label[0], scale)), scale),
            "answer": written(float(restore(logits[0, 0], scale)), scale),
        }
        return (lambda found: found[0, 0]), description
    if problem_type == "binary":
        answered = int(logits[0, 0] > 0)
        sign = 1 if answered else -1
        chance = float((sign * logits[0, 0]).sigmoid())
        description = {"truth": names[int(label[0])], "answer": names[answered]}
        return (lambda found: sign * found[0, 0]), description | {
            "probability": metrics.plain(chance)
        }
    if problem_type == "multilabel":
        chances = logits[0].sigmoid()
        likeliest = int(chances.argmax())
        description = {
            "truth": " | ".join(n for n, on in zip(names, label[0].tolist(), strict=True) if on),
            "answer": " | ".join(
                n for n, on in zip(names, (chances > 0.5).tolist(), strict=True) if on
            ),
            "explained": names[likeliest],
            "probability": metrics.plain(float(chances[likeliest])),
        }
        return (lambda found: found[0, likeliest]), description
    if problem_type == "steps":
        step = int((label[0] != IGNORE).nonzero()[-1])
        answered = int(logits[0, step].argmax())
        description = {
            "truth": names[int(label[0, step])],
            "answer": names[answered],
            "step": step + 1,
            "probability": metrics.plain(float(logits[0, step].softmax(-1)[answered])),
        }
        return (lambda found: found[0, step, answered]), description
    answered = int(logits[0].argmax())
    chance = float(logits[0].softmax(-1)[answered])
    description = {"truth": names[int(label[0])], "answer": names[answered]}
    return (lambda found: found[0, answered]), description | {"probability": metrics.plain(chance)}


def _shares(names: list[str], values: Tensor) -> list[dict[str, Any]]:
    return [
        {"name": name, "adds": metrics.plain(value)}
        for name, value in zip(names, values.tolist(), strict=True)
    ]


def _tokens(rows: Rows, ids: Tensor) -> list[str]:
    tokenizer = rows.preprocessor.tokenizer
    if tokenizer is None:
        return [str(each) for each in ids.tolist()]
    # A byte-level token may be an incomplete UTF-8 character.
    return [tokenizer.decode([each]).replace("\ufffd", "·") for each in ids.tolist()]


def _states(
    network: FusionNetwork,
    rows: Rows,
    device: torch.device | str,
    folder: Path,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Write pictures/states.png: the units of the state over the steps of random rows."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows.examples), generator=generator)[:count].tolist()
    batch = _to(rows.examples.collate(chosen), device)
    with torch.no_grad():
        states = network.states(batch).cpu()
    names = network.step_names(batch)
    lengths = batch["steps"].sum(1).tolist() if "steps" in batch else [len(names)] * len(chosen)
    where = [rows.where[row] for row in chosen]
    saliency.states(folder / PICTURES / "states.png", states, lengths, names, where)
    return {"rows": where, "steps": names, "picture": f"{PICTURES}/states.png"}


def _to(batch: Batch, device: torch.device | str) -> Batch:
    return {name: value.to(device) for name, value in batch.items()}
