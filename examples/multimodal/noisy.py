"""Noisy digits: also evaluate the product of the posteriors, and rows with a missing modality."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.table import Table

from fastrnn.fusion import Run

from .common import Call, accuracy, compare, grid, logits, train_each

DROPOUT = 0.2


def run_noisy(call: Call) -> Run:
    """Run the standard comparison and the evaluations specific to this demo."""
    run = compare(call)
    product = posterior_product(run)
    call.console.print(
        f"product of the posteriors of image only and audio only: {product:.3f}, the best possible "
        "combination of these two models"
    )
    call.console.print(missing(run, call))
    return run


def posterior_product(run: Run) -> float:
    """Return the test accuracy of p(digit | image) · p(digit | audio), from the unimodal models.

    Digits are equally frequent, and image and audio are independent given the digit, so the
    product is the posterior given both.
    """
    both = sum(
        logits(each.model, run.held_out).log_softmax(-1)
        for each in run.trained
        if each.name in ("image only", "audio only")
    )
    if not isinstance(both, torch.Tensor):
        raise ValueError("the run has no unimodal models")
    return accuracy(both, run.held_out)


def missing(run: Run, call: Call) -> Table:
    """Train the fusion again with modality dropout, and test both models with a modality missing.

    The unimodal models are the reference.
    """
    name = f"fusion, dropout {DROPOUT}"
    configs = {name: replace(run.config.model, modality_dropout=DROPOUT)}
    dropped = train_each(configs, call.config.train, run.datasets, run.folder, call.console)
    models = {each.name: each.model for each in (*run.trained, *dropped.values())}
    rows = {
        each: [without(run, models[each], other) for other in (None, "audio", "image")]
        for each in ("fusion", name)
    }
    rows["unimodal model"] = [
        "",
        *(without(run, models[f"{each} only"], None) for each in ("image", "audio")),
    ]
    columns = ["both", "image alone", "audio alone"]
    return grid("Accuracy on test rows that lack a modality", "model", columns, rows)


def without(run: Run, model: torch.nn.Module, other: str | None) -> str:
    """Format the test accuracy without a modality as a cell of the table."""
    return f"{accuracy(logits(model, run.held_out, other), run.held_out):.3f}"
