"""What this branch needs of others' until it is merged. To delete: this file and its imports.

Adds to the present network encode, sequence, run, states, answer, step_names and the reading of
NAME_present; to objective SCORES and probabilities; to checkpoint names and load_network.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from . import checkpoint, objective
from .config import ModelConfig
from .network import FusionNetwork, build
from .split import split_rows


class Sequence(NamedTuple):
    x: Tensor
    lengths: Tensor | None
    h0: Tensor | None


def _encode(self: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, encoder in self.encoders.items():
        value = encoder(batch)
        if f"{name}_present" in batch:
            present = batch[f"{name}_present"].view(-1, *[1] * (value.dim() - 1))
            value = torch.where(present, value, torch.zeros_like(value))
        result[name] = value
    return result


def _sequence(self: Any, features: dict[str, Tensor], batch: dict[str, Tensor]) -> Sequence:
    steps = batch.get("steps")
    return Sequence(self.fusion(features, steps), None if steps is None else steps.sum(1), None)


def _run(self: Any, sequence: Sequence) -> Tensor:
    if self.config.cell == "none":
        return self.head.hidden(sequence.x).tanh()
    return self.head.rnn(sequence.x, sequence.h0, lengths=sequence.lengths)[0]


def _states(self: Any, batch: dict[str, Tensor]) -> Tensor:
    return self.run(self.sequence(self.encode(batch), batch))


def _answer(self: Any, states: Tensor) -> Tensor:
    return self.head.readout(states)


def _step_names(self: Any, batch: dict[str, Tensor]) -> list[str]:
    if self.config.fusion == "tokens":
        pairs = [" × ".join(pair) for pair in combinations(self.config.modalities, 2)]
        return [*self.config.modalities, *pairs]
    if "steps" in batch:
        return [f"step {number + 1}" for number in range(batch["steps"].shape[1])]
    return ["all at once"]


def _forward(self: Any, batch: dict[str, Tensor]) -> Tensor:
    sequence = self.sequence(self.encode(batch), batch)
    return self.head(sequence.x, lengths=sequence.lengths)[0]


if not hasattr(FusionNetwork, "encode"):
    for name, method in {
        "encode": _encode,
        "sequence": _sequence,
        "run": _run,
        "states": _states,
        "answer": _answer,
        "step_names": _step_names,
        "forward": _forward,
    }.items():
        setattr(FusionNetwork, name, method)


def _probabilities(kind: str, logits: Tensor) -> Tensor:
    if kind == "binary":
        return logits[..., 0].sigmoid()
    if kind == "multilabel":
        return logits.sigmoid()
    return logits[..., 0] if kind == "regression" else logits.softmax(-1)


if not hasattr(objective, "probabilities"):
    kinds = ("binary", "multiclass", "multilabel", "steps")
    objective.probabilities = _probabilities  # type: ignore[attr-defined]
    objective.SCORES = {  # type: ignore[attr-defined]
        **dict.fromkeys(kinds, "accuracy"),
        "regression": "r2",
    }


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
