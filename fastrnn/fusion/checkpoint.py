"""A run folder's model: config.json, model.safetensors and, with text, tokenizer.json.

Nothing is pickled: loading a stranger's folder runs no code of theirs.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from .config import RunConfig
from .data import Preprocessor
from .errors import ConfigError
from .network import FusionNetwork, LateNetwork, build
from .text import load_tokenizer

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
FILES = (_CONFIG, _WEIGHTS, _TOKENIZER)


def save(folder: Path, config: RunConfig, model: nn.Module, preprocessor: Preprocessor) -> None:
    """Write what `load` needs; `folder` exists."""
    text = json.dumps(config.to_json(), indent=2, ensure_ascii=False)
    (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")
    weights = {name: each.detach().cpu().contiguous() for name, each in model.state_dict().items()}
    (folder / _WEIGHTS).write_bytes(to_bytes(weights))  # save_file would hide it from others
    if preprocessor.tokenizer is not None:
        preprocessor.tokenizer.save(str(folder / _TOKENIZER))


def load(folder: str | Path) -> tuple[FusionNetwork | LateNetwork, Preprocessor, RunConfig]:
    """The model of a run, in evaluation mode on the CPU, and what turns rows into its inputs.

    Raises:
        ConfigError: the folder holds no run, or one of another version.
    """
    folder = Path(folder)
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise ConfigError(f"{folder}: no {_CONFIG} and {_WEIGHTS} there; give a run's folder")
    config = RunConfig.from_json(json.loads((folder / _CONFIG).read_text(encoding="utf-8")))
    tokenizer = None
    if "text" in config.model.modalities:
        tokenizer = load_tokenizer(folder / _TOKENIZER)
    model = build(config.model)
    model.load_state_dict(load_file(folder / _WEIGHTS))
    return model.eval(), Preprocessor.restore(config, tokenizer), config
