"""What a run needs to go on after it was killed: the folder `checkpoint` in the run's folder.

| file | |
|---|---|
| run.json | the call that began the run: the manifest, the options, a fingerprint of the rows |
| state.safetensors | where it stands; JSON in the header's metadata, and the tensors below |

| tensors | there while a network is in training |
|---|---|
| network.NAME | its weights |
| best.NAME | those of its best epoch so far |
| optimizer.INDEX.NAME | Adam's moments and counts |
| tally.NAME | [P, ...]: what each process has counted of the epoch in progress |

The metadata say which networks are finished, which is in training, the epoch and the step in it,
how many bytes of metrics.jsonl belong to all that, the learning rate's schedule, and the scale of
fp16. Random numbers need no state: the order of an epoch's rows and the generator of every step
follow from the seed and the position. The file replaces the one before it at once, so whenever the
process is killed there is a whole one; the folder goes when the run is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from . import files
from .errors import ConfigError
from .manifest import Manifest

FOLDER = "checkpoint"
_RUN, _STATE = "run.json", "state.safetensors"
CALL = f"{FOLDER}/{_RUN}"


@dataclass(frozen=True)
class State:
    """Where a run stands."""

    finished: tuple[str, ...] = ()  # networks whose training is over
    metrics: int = 0  # bytes of metrics.jsonl
    model: str = ""  # the network in training
    epoch: int = 1  # of the step that comes next
    step: int = 0  # of that epoch, so many are done
    seconds: float = 0.0  # spent on the network in training
    processes: int = 1
    groups: list[dict[str, Any]] = field(default_factory=list)  # the optimizer's, with the rate
    schedule: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, by the rest of their names."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): each
            for name, each in self.tensors.items()
            if name.startswith(start)
        }


def save(folder: Path, state: State) -> None:
    """Make `state` what an interrupted run of `folder` goes on from."""
    values = {name: value for name, value in vars(state).items() if name != "tensors"}
    tensors = {name: each.detach().cpu().contiguous() for name, each in state.tensors.items()}
    files.write(folder / FOLDER / _STATE, to_bytes(tensors, {"state": json.dumps(values)}))


def load(folder: Path) -> State | None:
    """What `save` wrote last; None before that."""
    file = folder / FOLDER / _STATE
    if not file.is_file():
        return None
    with safe_open(str(file), framework="pt") as reader:
        values = json.loads(reader.metadata()["state"])
        tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    values["finished"] = tuple(values["finished"])
    return State(**values, tensors=tensors)


def clear(folder: Path) -> None:
    """Remove the checkpoint of a run that is complete.

    A run with the call but no state would begin anew: the call goes first.
    """
    place = folder / FOLDER
    for name in (_RUN, _STATE):
        files.remove(place / name)
    if place.is_dir():
        place.rmdir()


def begin(folder: Path, run: Mapping[str, Any]) -> None:
    """Write down the call that begins a run; the folder is made."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    files.write_json(folder / FOLDER / _RUN, run)


def begun(folder: Path) -> dict[str, Any] | None:
    """What `begin` wrote; None where no run was interrupted."""
    file = folder / FOLDER / _RUN
    return files.read_json(file) if file.is_file() else None


def check(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another call than the one that began.

    Raises:
        ConfigError: it names what differs.
    """
    now = json.loads(json.dumps(now))
    different = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            keys = sorted(value.keys() | old.keys())
            different += [f"{name}.{key}" for key in keys if value.get(key) != old.get(key)]
        elif value != old:
            different.append(name)
    if "rows" in different:
        raise ConfigError(
            f"{folder}: the manifest's rows are not those that the run began with; restore them, "
            "or begin another run"
        )
    if different:
        raise ConfigError(
            f"{folder}: a run goes on with what it began with, but there are other values of "
            f"{', '.join(different)}; leave them as they were, or begin another run"
        )


def fingerprint(manifest: Manifest) -> str:
    """Of the rows' own content; where the folder lies and what its files hold is not part of it."""
    digest = hashlib.sha256()
    for row in manifest.rows:
        values = {**asdict(row), "images": [each.name for each in row.images], "audio": ""}
        digest.update(json.dumps(values, default=str).encode())
    return digest.hexdigest()


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors, as names of `State.tensors`."""
    return {
        f"optimizer.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give the optimizer back what `moments` and its groups were.

    Each tensor is laid out in memory as its parameter is: other strides may take another path
    through the arithmetic, whose last bit differs.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    values: dict[int, dict[str, Tensor]] = {}
    for name, value in state.below("optimizer").items():
        index, key = name.split(".")
        like = parameters[int(index)]
        if value.shape == like.shape and value.dim():
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        values.setdefault(int(index), {})[key] = value
    groups = [
        {name: tuple(each) if name == "betas" else each for name, each in group.items()}
        for group in state.groups
    ]
    optimizer.load_state_dict({"state": values, "param_groups": groups})
