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

from fastrnn.fusion.config.presets import PRESETS
from fastrnn.fusion.config.schema import TrainConfig
from fastrnn.fusion.data.manifest import Manifest, read_manifest
from fastrnn.fusion.data.processor import Preprocessor
from fastrnn.fusion.data.splits import split_rows
from fastrnn.fusion.models.summary import note
from fastrnn.fusion.strings import plural
from fastrnn.fusion.training import run as experiment
from fastrnn.fusion.training.loggers import Log
from fastrnn.fusion.training.run import METRICS, Run, configure
from fastrnn.fusion.training.trainer import Trained, train

from .common import Call, grid

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
    saved = experiment.fit(
        manifest,
        call.folder,
        call.demo.data,
        call.training,
        call.demo.options,
        False,
        call.console,
    )
    found = {"tokens": saved.trained[0]}
    with Log(call.folder / METRICS, call.console) as log:
        for name, options in FUSIONS.items():
            if name not in found:
                config = replace(saved.config.model, **options)
                found[name] = train(name, config, call.training, saved.examples, log)
        found |= as_written(call, manifest, log)
    cells = {
        name: [f"{each.judged.score:.3f}", f"{each.parameters:,}", f"{each.seconds:.0f}"]
        for name, each in found.items()
    }
    title = f"Accuracy on {plural(len(saved.examples['test']), 'test row')}; chance is 0.5"
    call.console.print(grid(title, "model", ["accuracy", "parameters", "seconds"], cells))
    return saved


def as_written(call: Call, manifest: Manifest, log: Log) -> dict[str, Trained]:
    """Train the preset's network with each of its two cells, at PIXELS × PIXELS.

    Training is the preset's: a constant learning rate, and its number of epochs unless the call
    sets another.
    """
    preset = PRESETS["article"]
    data = replace(call.demo.data, **{**preset.data, "image_size": PIXELS})
    training = TrainConfig(**{**preset.train, "seed": call.seed})
    training = replace(training, epochs=call.epochs or training.epochs)
    parts = split_rows(manifest, call.seed)
    preprocessor = Preprocessor.fit(manifest, parts["train"], data)
    examples = {name: preprocessor.load(manifest, rows) for name, rows in parts.items()}
    config = configure(manifest, preprocessor, preset.model)
    log.say(f"the article's network: {note(config)}")
    return {
        f"article, cell {cell}": train(
            f"article, {cell}", replace(config, cell=cell), training, examples, log
        )
        for cell in ("rnn", "lstm")
    }
