"""What an exported model needs where fastrnn is not installed: its metadata, and a recipe.

recipe.py is copied next to the file. It turns rows into the inputs of the file and its outputs into
labels, with the metadata. Each value is JSON, except problem_type and the versions:

| key | |
|---|---|
| problem_type, labels | as in tasks/base.py |
| target | of a regression: mean and standard deviation; else null |
| threshold | of two, or of several independent labels |
| data, model | how files become arrays (DataConfig), and the architecture (ModelConfig) |
| columns | input or tabular column -> column of the table |
| series | input -> mean and standard deviation of each variable |
| tabular | the scale or the categories of each tabular column (data/tabular.py) |
| tokenizer | of a model that reads text: the content of tokenizer.json |
| fastrnn, torch | the versions that exported the model |
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import fastrnn

from .config.inputs import of_modality
from .config.schema import ModelConfig, RunConfig
from .data.processor import Processor
from .errors import ConfigError
from .files import read, write

# Modules that the recipe imports, perhaps indirectly: one with such a name would hide them.
_IMPORTED = {*sys.stdlib_module_names, "numpy", "onnxruntime", "PIL", "soundfile", "tokenizers"}
_RECIPE = Path(__file__).with_name("recipe.py")


def recipe_of(path: Path) -> Path:
    """Return the path of the recipe next to an exported file: model.py next to model.onnx.

    Raises:
        ConfigError: another file has this name, the recipe would hide a Python module, or the
            exported file does not end in .onnx.
    """
    if path.suffix != ".onnx" and not path.is_dir():  # to_onnx reports a folder
        raise ConfigError(f"{path}: the name of an exported file must end in .onnx")
    target = path.with_suffix(".py")
    if path.stem in _IMPORTED:
        raise ConfigError(f"{target} would hide the module {path.stem}; give another --output")
    first = read(_RECIPE).splitlines()[0]
    if target.exists() and not read(target).startswith(first):
        raise ConfigError(f"{target} exists; move it, or give another --output")
    return target


def write_recipe(path: Path) -> Path:
    """Write the recipe (recipe.py) of an exported file next to it; return its path.

    Raises:
        ConfigError, OSError: it cannot be written; see `recipe_of`.
    """
    target = recipe_of(path)
    write(target, read(_RECIPE))
    return target


def describe(
    path: Path,
    model: ModelConfig,
    processor: Processor,
    config: RunConfig | None,
) -> None:
    """Store in the file's metadata what turns rows into its inputs, and its outputs into labels."""
    import onnx

    series = of_modality(processor.modalities, "series")
    facts = {
        "problem_type": processor.task.problem_type,
        "labels": json.dumps(processor.task.labels, ensure_ascii=False),
        "target": json.dumps(processor.task.scale),
        "threshold": json.dumps(0.5 if config is None else config.threshold),
        "columns": json.dumps(_columns(processor, config), ensure_ascii=False),
        "series": json.dumps({name: processor.scale_of(name) for name in series}),
        "tabular": json.dumps([asdict(each) for each in processor.tabular]),
        "data": json.dumps(asdict(processor.config)),
        "model": json.dumps(asdict(model)),
        "fastrnn": fastrnn.__version__,
        "torch": str(torch.__version__),
    }
    if processor.tokenizer is not None:
        facts["tokenizer"] = processor.tokenizer.to_str()
    file = onnx.load(str(path))
    onnx.helper.set_model_props(file, facts)
    onnx.save(file, str(path))


def _columns(processor: Processor, config: RunConfig | None) -> dict[str, str]:
    """Return the column of the table that each input or tabular column is read from."""
    known = {} if config is None else config.columns
    names = [*processor.modalities, *(column.name for column in processor.tabular)]
    return {
        name: known.get(name, name.partition(":")[2] or name) for name in names if name != "tabular"
    }
