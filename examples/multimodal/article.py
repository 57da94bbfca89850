"""The article's network compared with the other fusion modes, on claim check.

Two rows of the table are the network as the article describes it (presets.py), with the cell of
its equations and with the cell of its code. Images are PIXELS × PIXELS instead of 224 × 224: the
digits contain no more detail, and 224 would take hours on a CPU. The other rows share the demo's
smaller encoders and differ only in the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastrnn.fusion import Manifest, Processor, Run, TrainConfig, fit, read_manifest
from fastrnn.fusion.config.presets import PRESETS
from fastrnn.fusion.data.dataset import load_datasets
from fastrnn.fusion.models.summary import note
from fastrnn.fusion.strings import plural
from fastrnn.fusion.training.baselines import configure
from fastrnn.fusion.training.trainer import Trained

from .common import Call, grid, train_each

PIXELS = 32
FUSIONS: Mapping[str, Mapping[str, Any]] = {
    "tokens": {"fusion": "tokens"},
    "parallel": {"fusion": "parallel"},
    "init": {"fusion": "init"},
    "concat": {"fusion": "concat"},
    "concat, LayerNorm": {"fusion": "concat", "normalise": True},
    "late": {"fusion": "late"},
    "tokens, no recurrence": {"fusion": "tokens", "cell": "none"},
}


def run_article(call: Call) -> Run:
    """Train each network on the same rows; the saved run is that of fusion "tokens"."""
    manifest = read_manifest(call.write())
    saved = fit(manifest, call.folder, call.alone, console=call.console)
    others = {
        name: replace(saved.config.model, **options)
        for name, options in FUSIONS.items()
        if name != "tokens"
    }
    found = {"tokens": saved.trained[0]}
    found |= train_each(others, call.config.train, saved.datasets, call.folder, call.console)
    found |= as_written(call, manifest, saved)
    cells = {
        name: [f"{each.test_score.score:.3f}", f"{each.parameters:,}", f"{each.seconds:.0f}"]
        for name, each in found.items()
    }
    title = f"Accuracy on {plural(len(saved.held_out), 'test row')}; chance is 0.5"
    call.console.print(grid(title, "model", ["accuracy", "parameters", "seconds"], cells))
    return saved


def as_written(call: Call, manifest: Manifest, saved: Run) -> dict[str, Trained]:
    """Train the preset's network with each of its two cells, at PIXELS × PIXELS.

    Training is the preset's: a constant learning rate, and its number of epochs unless the call
    sets another.
    """
    preset = PRESETS["article"]
    data = replace(call.demo.config.data, **{**preset.data, "image_size": PIXELS})
    training = TrainConfig(**{**preset.train, "seed": call.seed})
    training = replace(training, epochs=call.epochs or training.epochs)
    processor = Processor.fit(manifest, saved.parts["train"], data)
    datasets = load_datasets(manifest, saved.parts, processor, cache="memory")
    config = configure(manifest, processor, preset.model)
    call.console.out(f"the article's network: {note(config)}", highlight=False)
    configs = {f"article, cell {cell}": replace(config, cell=cell) for cell in ("rnn", "lstm")}
    return train_each(configs, training, datasets, call.folder, call.console)
