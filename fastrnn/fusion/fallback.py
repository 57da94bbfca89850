"""What this branch needs of others' until it is merged. To delete: this file and its imports.

checkpoint.names and load_network; and, for tests, a run folder with all that they read.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from . import checkpoint
from .config import ModelConfig
from .network import build
from .split import split_rows


def complete(run: Any, manifest: Any) -> None:
    """Write what a run folder will hold: split.json, models/, and the manifest's path."""
    folder = Path(run.folder)
    if (folder / "split.json").exists():
        return
    parts = split_rows(manifest, run.config.train.seed)
    (folder / "split.json").write_text(json.dumps(parts))
    config = json.loads((folder / "config.json").read_text())
    config |= {"manifest": str(manifest.path), "root": str(manifest.path.parent)}
    (folder / "config.json").write_text(json.dumps(config))
    for each in run.trained:
        target = folder / "models" / each.name.replace(" ", "-")
        target.mkdir(parents=True)
        (target / "config.json").write_text(json.dumps(asdict(each.model.config)))
        weights = {name: value.contiguous() for name, value in each.model.state_dict().items()}
        (target / "model.safetensors").write_bytes(to_bytes(weights))


def _names(folder: str | Path) -> list[str]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return list(dict.fromkeys(json.loads(line)["model"] for line in lines))


def _load_network(folder: str | Path, name: str) -> Any:
    source = Path(folder) / "models" / name.replace(" ", "-")
    network = build(ModelConfig(**json.loads((source / "config.json").read_text())))
    network.load_state_dict(load_file(source / "model.safetensors"))
    return network.eval()


if not hasattr(checkpoint, "names"):
    checkpoint.names = _names  # type: ignore[attr-defined]
    checkpoint.load_network = _load_network  # type: ignore[attr-defined]
