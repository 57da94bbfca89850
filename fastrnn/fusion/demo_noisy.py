"""Noisy digits: beside the usual table, the product of the posteriors, and rows that lack one."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.table import Table

from .demo_runs import Call, accuracy, compare, grid, logits
from .experiment import METRICS, Run
from .log import Log
from .train import train

DROPOUT = 0.2


def noisy(call: Call) -> Run:
    """The comparison, and what is particular to this probe."""
    run = compare(call)
    product = posterior_product(run)
    call.console.print(
        f"product of the posteriors of image only and audio only: {product:.3f}, which is the best "
        "use there is of these two models"
    )
    call.console.print(missing(run, call))
    return run


def posterior_product(run: Run) -> float:
    """The test accuracy of p(digit | image) · p(digit | audio), of the two single models.

    Digits are equally frequent, and image and audio independent given the digit: so this is the
    posterior given both.
    """
    test = run.examples["test"]
    both = sum(
        logits(each.model, test).log_softmax(-1)
        for each in run.trained
        if each.name in ("image only", "audio only")
    )
    if not isinstance(both, torch.Tensor):
        raise ValueError("the run has no models of one modality")
    return accuracy("multiclass", both, test)


def missing(run: Run, call: Call) -> Table:
    """Train the fusion once more, with whole modalities left out of training rows at random, and
    judge both without one modality; a model of one modality is what could be hoped for."""
    name = f"fusion, dropout {DROPOUT}"
    config = replace(run.config.model, modality_dropout=DROPOUT)
    with Log(run.folder / METRICS, call.console) as log:
        dropped = train(name, config, call.training, run.examples, log)
    models = {each.name: each.model for each in (*run.trained, dropped)}
    rows = {
        each: [without(run, models[each], other) for other in (None, "audio", "image")]
        for each in ("fusion", name)
    }
    rows["one modality's own"] = [
        "",
        *(without(run, models[f"{each} only"], None) for each in ("image", "audio")),
    ]
    columns = ["both given", "image alone", "audio alone"]
    return grid("Accuracy on test rows that lack a modality", "model", columns, rows)


def without(run: Run, model: torch.nn.Module, other: str | None) -> str:
    """The test accuracy without a modality, as a cell."""
    test = run.examples["test"]
    return f"{accuracy('multiclass', logits(model, test, other), test):.3f}"
