"""A run folder's models: the main one, and every one that it was compared with.

| file | |
|---|---|
| config.json, model.safetensors, tokenizer.json | the run, and its main network at its best epoch |
| models/SLUG/config.json | a network's ModelConfig; the slug is its name, spaces as "-" |
| models/SLUG/model.safetensors | its weights at its best epoch |
| models/SLUG/last.safetensors | its weights after its last epoch, where that was not the best |

Nothing is pickled: loading a stranger's folder runs no code of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from . import files
from .config import ModelConfig, RunConfig
from .data import Preprocessor
from .errors import ConfigError
from .log import METRICS
from .network import FusionNetwork, LateNetwork, build
from .text import load_tokenizer

_CONFIG, _WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_MODELS, _LAST = "models", "last.safetensors"
FILES = (_CONFIG, _WEIGHTS, TOKENIZER)

Weights = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


def weights(model: nn.Module) -> Weights:
    """A copy of all that the model has learned, on the CPU."""
    return {name: each.detach().cpu().clone() for name, each in model.state_dict().items()}


def save_config(folder: Path, config: RunConfig, preprocessor: Preprocessor) -> None:
    """Write all that `load` needs but the weights."""
    files.write_json(folder / _CONFIG, config.to_json())
    if preprocessor.tokenizer is not None:
        files.write(folder / TOKENIZER, preprocessor.tokenizer.to_str(pretty=True))


def save(folder: Path, config: RunConfig, model: nn.Module, preprocessor: Preprocessor) -> None:
    """Write what `load` needs; `folder` exists."""
    save_config(folder, config, preprocessor)
    _write_weights(folder / _WEIGHTS, weights(model))


def load(folder: str | Path) -> tuple[FusionNetwork | LateNetwork, Preprocessor, RunConfig]:
    """The model of a run, in evaluation mode on the CPU, and what turns rows into its inputs.

    Raises:
        ConfigError: the folder holds no run, or one of another version.
    """
    folder = Path(folder)
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise ConfigError(f"{folder}: no {_CONFIG} and {_WEIGHTS} there; give a run's folder")
    config = RunConfig.from_json(files.read_json(folder / _CONFIG))
    tokenizer = None
    if "text" in config.model.modalities:
        tokenizer = load_tokenizer(folder / TOKENIZER)
    model = _load_weights(build(config.model), folder / _WEIGHTS)
    return model, Preprocessor.restore(config, tokenizer), config


def slug(name: str) -> str:
    """A network's name as a folder's."""
    return name.replace(" ", "-")


def save_network(
    folder: Path, name: str, config: ModelConfig, best: Weights, last: Weights | None = None
) -> None:
    """Write what `load_network` needs.

    Args:
        last: the weights after the last epoch, where `best` are those of an earlier one.
    """
    place = folder / _MODELS / slug(name)
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place / _CONFIG, asdict(config))
    if last is None:
        files.remove(place / _LAST)
    else:
        _write_weights(place / _LAST, last)
    _write_weights(place / _WEIGHTS, best)


def names(folder: str | Path) -> list[str]:
    """The networks that `load_network` finds in a run's folder, in the order of their training."""
    folder = Path(folder)
    there = {each.parent.name for each in (folder / _MODELS).glob(f"*/{_WEIGHTS}")}
    order: dict[str, None] = {}
    if (folder / METRICS).is_file():
        with (folder / METRICS).open(encoding="utf-8") as lines:
            order = dict.fromkeys(json.loads(line)["model"] for line in lines)
    known = [name for name in order if slug(name) in there]
    return known + sorted(each.replace("-", " ") for each in there - {slug(name) for name in known})


def load_network(
    folder: str | Path, name: str, *, last: bool = False
) -> FusionNetwork | LateNetwork:
    """A network of a run, in evaluation mode on the CPU: "fusion", "image only", "late", ...

    Args:
        last: as it was after its last epoch, instead of at its best.

    Raises:
        ConfigError: there is none of that name; the text lists those there are.
    """
    place = Path(folder) / _MODELS / slug(name)
    file = place / _WEIGHTS
    if not file.is_file() or not (place / _CONFIG).is_file():
        known = ", ".join(names(folder)) or "none"
        raise ConfigError(f"{folder}: no network {name!r} in {_MODELS}; there are: {known}")
    values = files.read_json(place / _CONFIG)
    try:
        config = ModelConfig(**values)
    except TypeError as error:
        raise ConfigError(f"{place / _CONFIG}: written by another version ({error})") from None
    if last and (place / _LAST).is_file():
        file = place / _LAST
    return _load_weights(build(config), file)


def _load_weights(network: Network, file: Path) -> Network:
    """The network with a file's weights, in evaluation mode."""
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: not this network's weights, or damaged: {reason}") from None
    return network.eval()


def _write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    files.write(path, to_bytes({name: each.contiguous() for name, each in tensors.items()}))
